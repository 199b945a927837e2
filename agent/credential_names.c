/*
 * credential_names.c: see credential.h.
 *
 * Role: the loader. Trust: names come from certificates and from the configuration; each is brought
 * to one form here, so that the handshaker compares bytes.
 */
#include "agent/credential.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <openssl/x509v3.h>

void
credential_warn(const struct credential_warnings *warnings, const char *format, ...)
{
    char text[ERROR_TEXT_MAX];
    va_list args;

    if (warnings == NULL || warnings->tell == NULL)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    warnings->tell(warnings->argument, text);
}

/* One label: [from, to). */
static bool
check_label(const char *from, const char *to)
{
    if (from == to || to - from > 63 || from[0] == '-' || to[-1] == '-')
        return false;
    for (; from < to; from++)
        if (!((*from >= 'a' && *from <= 'z') || (*from >= '0' && *from <= '9') || *from == '-' ||
              *from == '_'))
            return false;
    return true;
}

/* No top-level domain is a number: what ends in one is an IP address (RFC 6066 section 3 forbids
 * them in SNI). */
static bool
is_number(const char *from, const char *to)
{
    for (; from < to; from++)
        if (*from < '0' || *from > '9')
            return false;
    return true;
}

bool
credential_normalise_name(const char *name, size_t size, char normal[SERVICE_HOST_MAX])
{
    const char *label, *end;

    if (size > 0 && name[size - 1] == '.')
        size--;
    if (size == 0 || size > 253)
        return false;
    for (size_t i = 0; i < size; i++)
        normal[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] + ('a' - 'A') : name[i]);
    normal[size] = '\0';
    label = normal;
    end = normal + size;
    if (size > 2 && normal[0] == '*' && normal[1] == '.')
        label += 2;
    for (;;) {
        const char *dot = memchr(label, '.', (size_t)(end - label));

        if (!check_label(label, dot != NULL ? dot : end))
            return false;
        if (dot == NULL)
            return !is_number(label, end);
        label = dot + 1;
    }
}

struct name_list {
    uint8_t *bytes;
    size_t size;
    unsigned count;
    unsigned left_out;
};

static bool
has_name(const struct name_list *list, const char *name, size_t size)
{
    for (size_t at = 0; at < list->size; at += 1 + list->bytes[at])
        if (list->bytes[at] == size && memcmp(list->bytes + at + 1, name, size) == 0)
            return true;
    return false;
}

/* Add a name unless it is there. False if it is no host name. */
static bool
add_name(struct name_list *list, const char *name, size_t size)
{
    char normal[SERVICE_HOST_MAX];

    if (!credential_normalise_name(name, size, normal))
        return false;
    size = strlen(normal);
    if (has_name(list, normal, size))
        return true;
    if (1 + size > CREDENTIAL_NAMES_MAX - list->size) {
        list->left_out++;
        return true;
    }
    list->bytes[list->size] = (uint8_t)size;
    memcpy(list->bytes + list->size + 1, normal, size);
    list->size += 1 + size;
    list->count++;
    return true;
}

static void
add_certificate_name(struct name_list *list, const ASN1_STRING *string,
                     const struct credential_warnings *warnings)
{
    const char *bytes = (const char *)ASN1_STRING_get0_data(string);
    size_t size = (size_t)ASN1_STRING_length(string);
    char shown[96];

    if (add_name(list, bytes, size))
        return;
    error_printable(shown, sizeof(shown), bytes, size);
    credential_warn(warnings, "the certificate's DNS name \"%s\" is no host name; ignored", shown);
}

static void
add_common_name(struct name_list *list, const X509 *leaf)
{
    const X509_NAME *subject = X509_get_subject_name(leaf);
    int at = -1, last = -1;
    unsigned char *text = NULL;
    int size;

    while ((at = X509_NAME_get_index_by_NID(subject, NID_commonName, at)) >= 0)
        last = at;
    if (last < 0)
        return;
    size = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, last)));
    /* A common name may be anything; only one that is a host name is meant as one. */
    if (size > 0)
        (void)add_name(list, (const char *)text, (size_t)size);
    OPENSSL_free(text);
}

static void
add_certificate_names(struct name_list *list, const X509 *leaf,
                      const struct credential_warnings *warnings)
{
    int critical;
    GENERAL_NAMES *names = X509_get_ext_d2i(leaf, NID_subject_alt_name, &critical, NULL);

    if (names == NULL) {
        if (critical == -1) /* there is no such extension */
            add_common_name(list, leaf);
        else
            credential_warn(warnings, "the certificate's subjectAltName is damaged; ignored");
        return;
    }
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        int type;
        const ASN1_STRING *value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &type);

        if (type == GEN_DNS)
            add_certificate_name(list, value, warnings);
    }
    GENERAL_NAMES_free(names);
}

void
credential_names(const struct credential *credential, const struct load_identity *identity,
                 const struct credential_warnings *warnings, uint8_t *names, size_t *names_size,
                 uint16_t *explicit_names)
{
    struct name_list list = {.bytes = names};

    (void)add_name(&list, identity->label, strlen(identity->label)); /* often just a word */
    for (size_t i = 0; i < identity->name_count && i < LOAD_NAMES_MAX; i++) {
        char shown[96];

        if (add_name(&list, identity->names[i], strlen(identity->names[i])))
            continue;
        error_printable(shown, sizeof(shown), identity->names[i], strlen(identity->names[i]));
        credential_warn(warnings,
                        "the name \"%s\" is no host name (write others as xn--..., a wildcard as "
                        "*.example.org); ignored",
                        shown);
    }
    *explicit_names = (uint16_t)list.count;
    add_certificate_names(&list, credential->leaf, warnings);
    *names_size = list.size;
    if (list.left_out > 0)
        credential_warn(warnings, "%u names left out: more than %d bytes", list.left_out,
                        CREDENTIAL_NAMES_MAX);
    if (list.count == 0 && !identity->is_default)
        credential_warn(warnings,
                        "no name leads to this identity and it is not the default; add names");
}
