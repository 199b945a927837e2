/*
 * credential_format.c: see credential.h.
 *
 * Role: the loader. Trust: any bytes may come. What is decoded here holds keys: libcrypto's
 * temporaries are wiped when they are freed (loader.c sees to that), ours are wiped here.
 */
#include "agent/credential.h"

#include <string.h>

#include <openssl/asn1.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>

/* The passphrase: the file's first line. */
struct passphrase {
    const char *path; /* NULL: none was given */
    size_t size;
    char text[CREDENTIAL_PASSPHRASE_MAX + 1];
};

/* libcrypto's own short reason for the first error in its queue. */
static const char *
reason(void)
{
    const char *text = ERR_reason_error_string(ERR_peek_error());

    return text != NULL ? text : "no reason given";
}

/* True if something failed for want of an algorithm, not because of a wrong passphrase. */
static bool
method_unsupported(void)
{
    bool unsupported = false;
    unsigned long code;

    while ((code = ERR_get_error()) != 0) {
        int what = ERR_GET_REASON(code);

        /* The decoders say "unsupported" too: of the garbage that a wrong passphrase can give. */
        unsupported |=
            (ERR_GET_LIB(code) == ERR_LIB_EVP &&
             (what == ERR_R_UNSUPPORTED || what == EVP_R_UNSUPPORTED_ALGORITHM ||
              what == EVP_R_UNKNOWN_PBE_ALGORITHM || what == EVP_R_UNSUPPORTED_CIPHER)) ||
            (ERR_GET_LIB(code) == ERR_LIB_PEM && what == PEM_R_UNSUPPORTED_ENCRYPTION);
    }
    return unsupported;
}

static int
cannot_decrypt(const char *path, const struct passphrase *passphrase, struct error *error)
{
    if (method_unsupported())
        return error_set(error,
                         "%s: encrypted with a method that libcrypto does not have; encrypt it "
                         "anew, for instance with openssl pkcs8 -topk8 -v2 aes-256-cbc",
                         path);
    if (passphrase->path == NULL)
        return error_set(error,
                         "%s: encrypted, and no passphrase is configured; set "
                         "passphrase_file",
                         path);
    return error_set(error, "%s: the passphrase in %s does not open it; correct one of them", path,
                     passphrase->path);
}

static int
read_passphrase(struct passphrase *passphrase, const struct credential_file *file,
                struct error *error)
{
    const uint8_t *end;
    size_t size;

    passphrase->path = NULL;
    passphrase->size = 0;
    passphrase->text[0] = '\0';
    if (file->data == NULL)
        return 0;
    end = memchr(file->data, '\n', file->size);
    size = end != NULL ? (size_t)(end - file->data) : file->size;
    if (size > 0 && file->data[size - 1] == '\r')
        size--;
    if (size > CREDENTIAL_PASSPHRASE_MAX)
        return error_set(error,
                         "%s: the passphrase is longer than %d bytes; its first line must be "
                         "the passphrase",
                         file->path, CREDENTIAL_PASSPHRASE_MAX);
    if (memchr(file->data, '\0', size) != NULL)
        return error_set(error, "%s: the passphrase has a NUL byte; its first line must be text",
                         file->path);
    memcpy(passphrase->text, file->data, size);
    passphrase->text[size] = '\0';
    passphrase->size = size;
    passphrase->path = file->path;
    return 0;
}

/* libcrypto asks here, and so never on a terminal. */
static int
give_passphrase(char *buffer, int size, int writing, void *argument)
{
    const struct passphrase *passphrase = argument;

    (void)writing;
    if (passphrase->path == NULL || size < 0 || passphrase->size > (size_t)size)
        return -1;
    memcpy(buffer, passphrase->text, passphrase->size);
    return (int)passphrase->size;
}

static int
add_certificate(struct credential_parts *parts, X509 *certificate, const char *path,
                struct error *error)
{
    if (sk_X509_num(parts->certificates) >= CREDENTIAL_FILE_CERTS_MAX) {
        X509_free(certificate);
        return error_set(error, "%s: more than %d certificates; keep only the chain", path,
                         CREDENTIAL_FILE_CERTS_MAX);
    }
    if (sk_X509_push(parts->certificates, certificate) <= 0) {
        X509_free(certificate);
        return error_set(error, "%s: out of memory", path);
    }
    return 0;
}

static int
set_key(struct credential_parts *parts, EVP_PKEY *key, const char *path, struct error *error)
{
    if (key == NULL)
        return error_set(error, "%s: the private key cannot be decoded (%s); make it anew", path,
                         reason());
    if (parts->key != NULL) {
        EVP_PKEY_free(key);
        return error_set(error,
                         "%s: holds more than one private key; keep the one that belongs to "
                         "the certificate",
                         path);
    }
    parts->key = key;
    return 0;
}

/* ---- keys in DER ---- */

static int
set_pkcs8_key(struct credential_parts *parts, const PKCS8_PRIV_KEY_INFO *info, const char *path,
              struct error *error)
{
    EVP_PKEY *key = EVP_PKCS82PKEY(info);
    const ASN1_OBJECT *algorithm = NULL;
    char name[80] = "?";

    if (key != NULL)
        return set_key(parts, key, path, error);
    if (PKCS8_pkey_get0(&algorithm, NULL, NULL, NULL, info) == 1)
        OBJ_obj2txt(name, sizeof(name), algorithm, 0);
    return error_set(error,
                     "%s: the private key (algorithm %s) cannot be decoded (%s); use RSA, "
                     "ECDSA on P-256, P-384 or P-521, or Ed25519",
                     path, name, reason());
}

/* Encrypted PKCS#8. */
static int
set_encrypted_key(struct credential_parts *parts, const X509_SIG *encrypted,
                  const struct passphrase *passphrase, const char *path, struct error *error)
{
    PKCS8_PRIV_KEY_INFO *info;
    int result;

    ERR_clear_error();
    if (passphrase->path == NULL)
        return cannot_decrypt(path, passphrase, error);
    info = PKCS8_decrypt(encrypted, passphrase->text, (int)passphrase->size);
    if (info == NULL)
        return cannot_decrypt(path, passphrase, error);
    result = set_pkcs8_key(parts, info, path, error);
    PKCS8_PRIV_KEY_INFO_free(info);
    return result;
}

/* A key in DER, of whichever kind. Returns 1 if it was one, 0 if not, -1 with an error. */
static int
try_key_der(struct credential_parts *parts, const uint8_t *der, size_t size,
            const struct passphrase *passphrase, const char *path, struct error *error)
{
    static const int traditional[] = {EVP_PKEY_RSA, EVP_PKEY_EC, EVP_PKEY_DSA};
    const uint8_t *next = der;
    PKCS8_PRIV_KEY_INFO *info = d2i_PKCS8_PRIV_KEY_INFO(NULL, &next, (long)size);
    X509_SIG *encrypted;
    int result;

    if (info != NULL) {
        result = set_pkcs8_key(parts, info, path, error);
        PKCS8_PRIV_KEY_INFO_free(info);
        return result == -1 ? -1 : 1;
    }
    next = der;
    encrypted = d2i_X509_SIG(NULL, &next, (long)size);
    if (encrypted != NULL) {
        result = set_encrypted_key(parts, encrypted, passphrase, path, error);
        X509_SIG_free(encrypted);
        return result == -1 ? -1 : 1;
    }
    for (size_t i = 0; i < sizeof(traditional) / sizeof(traditional[0]); i++) {
        EVP_PKEY *key;

        next = der;
        key = d2i_PrivateKey(traditional[i], NULL, &next, (long)size);
        if (key != NULL)
            return set_key(parts, key, path, error) == -1 ? -1 : 1;
    }
    return 0;
}

/* ---- PKCS#12 ---- */

static int
read_pkcs12(struct credential_parts *parts, PKCS12 *p12, const struct passphrase *passphrase,
            const char *path, struct error *error)
{
    const char *text = passphrase->path != NULL ? passphrase->text : NULL;
    STACK_OF(X509) *others = NULL;
    X509 *leaf = NULL;
    EVP_PKEY *key = NULL;
    int result = 0;

    ERR_clear_error();
    parts->pkcs12 = true;
    /* Without a passphrase libcrypto tries both ways of writing an empty one. */
    if (PKCS12_parse(p12, text, &key, &leaf, &others) != 1) {
        if (ERR_GET_REASON(ERR_peek_last_error()) == PKCS12_R_MAC_VERIFY_FAILURE)
            return cannot_decrypt(path, passphrase, error);
        if (method_unsupported())
            return error_set(error,
                             "%s: encrypted with a method that libcrypto does not have (RC2?); "
                             "export it anew: openssl pkcs12 -legacy -in OLD -nodes | openssl "
                             "pkcs12 -export -out NEW",
                             path);
        return error_set(error, "%s: the PKCS#12 file cannot be opened: damaged, or %s", path,
                         passphrase->path != NULL ? "the passphrase is wrong"
                                                  : "it needs a passphrase (passphrase_file)");
    }
    if (leaf != NULL)
        result = add_certificate(parts, leaf, path, error);
    while (result == 0 && sk_X509_num(others) > 0)
        result = add_certificate(parts, sk_X509_shift(others), path, error);
    sk_X509_pop_free(others, X509_free);
    if (key == NULL)
        return result;
    if (result == -1) {
        EVP_PKEY_free(key);
        return -1;
    }
    return set_key(parts, key, path, error);
}

/* ---- DER ---- */

/* The size that a definite DER header in front says, header included; 0 if there is none. */
static size_t
der_size(const uint8_t *data, size_t size)
{
    size_t length, bytes;

    if (size < 2 || data[0] != 0x30)
        return 0;
    if (data[1] < 0x80)
        return 2 + (size_t)data[1];
    bytes = data[1] & 0x7f;
    if (bytes == 0 || bytes > 4 || size < 2 + bytes)
        return 0;
    length = 0;
    for (size_t i = 0; i < bytes; i++)
        length = length << 8 | data[2 + i];
    return 2 + bytes + length;
}

static int
read_der(struct credential_parts *parts, const struct credential_file *file,
         const struct passphrase *passphrase, struct error *error)
{
    const uint8_t *next = file->data;
    X509 *certificate = d2i_X509(NULL, &next, (long)file->size);
    PKCS12 *p12;
    int result;

    if (certificate != NULL)
        return add_certificate(parts, certificate, file->path, error);
    next = file->data;
    p12 = d2i_PKCS12(NULL, &next, (long)file->size);
    if (p12 != NULL) {
        result = read_pkcs12(parts, p12, passphrase, file->path, error);
        PKCS12_free(p12);
        return result;
    }
    result = try_key_der(parts, file->data, file->size, passphrase, file->path, error);
    if (result == 0)
        return error_set(error, "%s: DER, but no certificate, PKCS#12 or private key, or damaged",
                         file->path);
    return result == -1 ? -1 : 0;
}

/* ---- PEM ---- */

struct pem_block {
    char *name;
    char *header; /* "Proc-Type: ..." of traditional encryption */
    unsigned char *data;
    long size;
};

static void
free_block(struct pem_block *block)
{
    if (block->data != NULL)
        OPENSSL_cleanse(block->data, (size_t)block->size);
    OPENSSL_free(block->name);
    OPENSSL_free(block->header);
    OPENSSL_free(block->data);
}

/* A key block of traditional form, possibly encrypted; type is of EVP_PKEY_. */
static int
read_traditional_key(struct credential_parts *parts, struct pem_block *block, int type,
                     struct passphrase *passphrase, const char *path, struct error *error)
{
    const unsigned char *next = block->data;
    bool encrypted = block->header[0] != '\0';
    long size = block->size;
    EVP_PKEY *key;

    ERR_clear_error();
    if (encrypted) {
        EVP_CIPHER_INFO cipher;

        if (PEM_get_EVP_CIPHER_INFO(block->header, &cipher) != 1)
            return error_set(error,
                             "%s: the key's encryption is not understood (%s); encrypt it "
                             "anew with openssl pkcs8 -topk8",
                             path, reason());
        if (cipher.cipher != NULL && passphrase->path == NULL)
            return cannot_decrypt(path, passphrase, error);
        if (PEM_do_header(&cipher, block->data, &size, give_passphrase, passphrase) != 1)
            return cannot_decrypt(path, passphrase, error);
    }
    key = d2i_PrivateKey(type, NULL, &next, size);
    /* A wrong passphrase passes the padding check once in 256 times. */
    if (key == NULL && encrypted)
        return cannot_decrypt(path, passphrase, error);
    return set_key(parts, key, path, error);
}

static int
read_pkcs8_block(struct credential_parts *parts, const struct pem_block *block,
                 const struct passphrase *passphrase, const char *path, struct error *error)
{
    const unsigned char *next = block->data;
    bool encrypted = strcmp(block->name, PEM_STRING_PKCS8) == 0;
    PKCS8_PRIV_KEY_INFO *info = NULL;
    X509_SIG *sealed = NULL;
    int result;

    ERR_clear_error();
    if (encrypted)
        sealed = d2i_X509_SIG(NULL, &next, block->size);
    else
        info = d2i_PKCS8_PRIV_KEY_INFO(NULL, &next, block->size);
    if (sealed == NULL && info == NULL)
        return error_set(error, "%s: the private key is damaged (%s); make it anew", path,
                         reason());
    result = encrypted ? set_encrypted_key(parts, sealed, passphrase, path, error)
                       : set_pkcs8_key(parts, info, path, error);
    PKCS8_PRIV_KEY_INFO_free(info);
    X509_SIG_free(sealed);
    return result;
}

static int
read_certificate_block(struct credential_parts *parts, const struct pem_block *block,
                       const char *path, struct error *error)
{
    const unsigned char *next = block->data;
    X509 *certificate = strcmp(block->name, PEM_STRING_X509_TRUSTED) == 0
                            ? d2i_X509_AUX(NULL, &next, block->size)
                            : d2i_X509(NULL, &next, block->size);

    if (certificate == NULL || next != block->data + block->size) {
        X509_free(certificate);
        return error_set(error, "%s: certificate %d is damaged (%s); get it anew", path,
                         sk_X509_num(parts->certificates) + 1, reason());
    }
    return add_certificate(parts, certificate, path, error);
}

/* One PEM block. What is neither certificate nor key (parameters, requests, CRLs, public keys) is
 * passed over: combined files hold all sorts of things. */
static int
read_block(struct credential_parts *parts, struct pem_block *block, struct passphrase *passphrase,
           bool want_key, const char *path, struct error *error)
{
    const char *name = block->name;

    if (strcmp(name, PEM_STRING_X509) == 0 || strcmp(name, PEM_STRING_X509_OLD) == 0 ||
        strcmp(name, PEM_STRING_X509_TRUSTED) == 0)
        return read_certificate_block(parts, block, path, error);
    if (!want_key)
        return 0;
    if (strcmp(name, PEM_STRING_PKCS8) == 0 || strcmp(name, PEM_STRING_PKCS8INF) == 0)
        return read_pkcs8_block(parts, block, passphrase, path, error);
    if (strcmp(name, PEM_STRING_RSA) == 0)
        return read_traditional_key(parts, block, EVP_PKEY_RSA, passphrase, path, error);
    if (strcmp(name, PEM_STRING_ECPRIVATEKEY) == 0)
        return read_traditional_key(parts, block, EVP_PKEY_EC, passphrase, path, error);
    if (strcmp(name, PEM_STRING_DSA) == 0)
        return read_traditional_key(parts, block, EVP_PKEY_DSA, passphrase, path, error);
    if (strcmp(name, "OPENSSH PRIVATE KEY") == 0)
        return error_set(error,
                         "%s: the key is in OpenSSH's own format; convert a copy of it with "
                         "ssh-keygen -p -m PKCS8",
                         path);
    return 0;
}

static int
read_pem(struct credential_parts *parts, const struct credential_file *file,
         struct passphrase *passphrase, bool want_key, struct error *error)
{
    BIO *input = BIO_new_mem_buf(file->data, (int)file->size);
    unsigned blocks = 0;
    int result = 0;

    if (input == NULL)
        return error_set(error, "%s: out of memory", file->path);
    while (result == 0) {
        struct pem_block block = {NULL, NULL, NULL, 0};

        ERR_clear_error();
        if (PEM_read_bio_ex(input, &block.name, &block.header, &block.data, &block.size,
                            PEM_FLAG_EAY_COMPATIBLE) != 1) {
            unsigned long code = ERR_peek_last_error();

            if (ERR_GET_LIB(code) != ERR_LIB_PEM || ERR_GET_REASON(code) != PEM_R_NO_START_LINE)
                result = error_set(error,
                                   "%s: PEM block %u is damaged or cut off (%s); get the "
                                   "file anew",
                                   file->path, blocks + 1, reason());
            break;
        }
        blocks++;
        result = read_block(parts, &block, passphrase, want_key, file->path, error);
        free_block(&block);
    }
    BIO_free(input);
    return result;
}

/* ---- one file ---- */

static int
read_parts(struct credential_parts *parts, const struct credential_file *file,
           struct passphrase *passphrase, bool want_key, struct error *error)
{
    size_t der = der_size(file->data, file->size);
    bool pem = memmem(file->data, file->size, "-----BEGIN ", 11) != NULL;

    if (file->size == 0)
        return error_set(error, "%s: the file is empty", file->path);
    if (file->size > CREDENTIAL_FILE_MAX)
        return error_set(error, "%s: larger than %d bytes; this is no certificate or key file",
                         file->path, CREDENTIAL_FILE_MAX);
    /* 0x30 is also the character '0', which text before a PEM block may begin with; and 30 80
     * begins a PKCS#12 file with lengths left open. */
    if (der == file->size ||
        (!pem && file->size > 2 && file->data[0] == 0x30 && file->data[1] == 0x80))
        return read_der(parts, file, passphrase, error);
    if (pem)
        return read_pem(parts, file, passphrase, want_key, error);
    if (der > file->size)
        return error_set(error, "%s: cut off: %zu bytes of %zu; get the file anew", file->path,
                         file->size, der);
    if (der > 0)
        return error_set(error, "%s: %zu bytes after the end of the DER data; get the file anew",
                         file->path, file->size - der);
    return error_set(error, "%s: neither PEM, DER nor PKCS#12; is it the right file?", file->path);
}

int
credential_read_parts(struct credential_parts *parts, const struct credential_file *file,
                      const struct credential_file *passphrase_file, bool want_key,
                      struct error *error)
{
    struct passphrase passphrase;
    int result = -1;

    memset(parts, 0, sizeof(*parts));
    parts->certificates = sk_X509_new_null();
    ERR_clear_error();
    if (parts->certificates == NULL)
        return error_set(error, "%s: out of memory", file->path);
    if (read_passphrase(&passphrase, passphrase_file, error) == 0)
        result = read_parts(parts, file, &passphrase, want_key, error);
    OPENSSL_cleanse(&passphrase, sizeof(passphrase));
    ERR_clear_error();
    if (result == -1)
        credential_parts_clear(parts);
    return result;
}

void
credential_parts_clear(struct credential_parts *parts)
{
    sk_X509_pop_free(parts->certificates, X509_free);
    EVP_PKEY_free(parts->key);
    memset(parts, 0, sizeof(*parts));
}
