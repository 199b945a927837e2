/* identity.c: see identity.h. */
#include "agent/identity.h"

#include <ctype.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>

#include "agent/log.h"
#include "agent/proxykey.h"
#include "agent/server_ctx.h"
#include "protocol/wire.h"

#define KEY_SLOTS   3    /* RSA, ECDSA, Ed25519: OpenSSL keeps one certificate of each */
#define HOT_SETS    1024 /* SSL_CTX kept per process */
#define NO_IDENTITY UINT32_MAX

struct identity_set {
    uint32_t members[KEY_SLOTS]; /* identity numbers, NO_IDENTITY where there is none */
    uint16_t context;
    SSL_CTX *ctx;               /* NULL: not hot */
    struct identity_set *newer; /* list of hot sets */
    struct identity_set *older;
    struct identity_set *next_same_hash;
    uint8_t scope[KEYOPS_SCOPE_SIZE];
};

struct name_entry {
    const uint8_t *name; /* NULL: free; points into the mapping */
    uint8_t size;
    uint16_t context;
    uint32_t members[KEY_SLOTS];
    struct identity_set *set; /* made when the table is complete */
};

struct identity_table {
    const struct generation_public *part; /* does not own */
    struct keycall *keeper;               /* does not own */
    const struct identity_hooks *hooks;   /* does not own */
    struct name_entry *names;             /* open addressing, room is a power of two */
    size_t name_room;
    struct identity_set **sets;           /* hash of member tuples, room as for names */
    struct identity_set **defaults;       /* per context, NULL: none */
    SSL_CTX **bare;                       /* per context without a default: no certificate */
    uint8_t (*scopes)[KEYOPS_SCOPE_SIZE]; /* per context, without the set */
    struct identity_set *newest;
    struct identity_set *oldest;
    size_t hot;
};

/* FNV-1a: the names are the administrator's, nobody else can choose collisions. */
static size_t
hash_bytes(size_t hash, const void *data, size_t size)
{
    const uint8_t *bytes = data;

    for (size_t i = 0; i < size; i++)
        hash = (hash ^ bytes[i]) * 1099511628211U;
    return hash;
}

static void *
allocate(size_t count, size_t size)
{
    void *memory = calloc(count > 0 ? count : 1, size);

    if (memory == NULL)
        log_die("out of memory for the identities");
    return memory;
}

static struct name_entry *
name_slot(const struct identity_table *table, uint16_t context, const void *name, size_t size)
{
    size_t hash =
        hash_bytes(hash_bytes(1469598103934665603U, &context, sizeof(context)), name, size);

    for (size_t i = hash & (table->name_room - 1);; i = (i + 1) & (table->name_room - 1)) {
        struct name_entry *entry = &table->names[i];

        if (entry->name == NULL || (entry->context == context && entry->size == size &&
                                    memcmp(entry->name, name, size) == 0))
            return entry;
    }
}

static int
key_slot(uint8_t key_type)
{
    switch (key_type) {
    case GENERATION_KEY_RSA:
        return 0;
    case GENERATION_KEY_ED25519:
        return 2;
    default:
        return 1;
    }
}

/* Enter the names of one identity. The first identity of a kind that claims a name keeps it. */
static void
add_names(struct identity_table *table, uint32_t number, bool explicit_ones)
{
    const struct generation_identity *identity = &table->part->identities[number];
    const uint8_t *next = identity->names, *end = next + identity->names_size;

    for (size_t i = 0; next < end; i++) {
        uint8_t size = *next++;
        const uint8_t *name = next;
        struct name_entry *entry;

        next += size;
        if ((i < identity->explicit_names) != explicit_ones)
            continue;
        entry = name_slot(table, identity->context, name, size);
        if (entry->name == NULL) {
            entry->name = name;
            entry->size = size;
            entry->context = identity->context;
            for (size_t slot = 0; slot < KEY_SLOTS; slot++)
                entry->members[slot] = NO_IDENTITY;
        }
        if (entry->members[key_slot(identity->key_type)] == NO_IDENTITY)
            entry->members[key_slot(identity->key_type)] = number;
    }
}

/* The set with exactly these members. A ticket's scope includes the names of its certificates, not
 * these themselves: a session does not cross to another identity, and outlives a renewal. */
static struct identity_set *
intern_set(struct identity_table *table, uint16_t context, const uint32_t members[KEY_SLOTS])
{
    size_t hash = hash_bytes(context, members, KEY_SLOTS * sizeof(members[0]));
    struct identity_set **head = &table->sets[hash & (table->name_room - 1)], *set;
    EVP_MD_CTX *digest;

    for (set = *head; set != NULL; set = set->next_same_hash) {
        if (set->context == context && memcmp(set->members, members, sizeof(set->members)) == 0)
            return set;
    }
    set = allocate(1, sizeof(*set));
    set->context = context;
    memcpy(set->members, members, sizeof(set->members));
    digest = EVP_MD_CTX_new();
    if (digest == NULL || EVP_DigestInit_ex(digest, EVP_sha256(), NULL) != 1 ||
        EVP_DigestUpdate(digest, table->scopes[context], KEYOPS_SCOPE_SIZE) != 1)
        log_die("out of memory for the identities");
    for (size_t slot = 0; slot < KEY_SLOTS; slot++) {
        const struct generation_identity *identity;

        if (members[slot] == NO_IDENTITY)
            continue;
        identity = &table->part->identities[members[slot]];
        if (EVP_DigestUpdate(digest, identity->names, identity->names_size) != 1)
            log_die("digest of an identity failed");
    }
    if (EVP_DigestFinal_ex(digest, set->scope, NULL) != 1)
        log_die("digest of an identity failed");
    EVP_MD_CTX_free(digest);
    set->next_same_hash = *head;
    *head = set;
    return set;
}

static void
build_names(struct identity_table *table)
{
    const struct generation_public *part = table->part;
    size_t names = 0;

    for (size_t i = 0; i < part->identity_count; i++) {
        const uint8_t *next = part->identities[i].names;

        for (const uint8_t *end = next + part->identities[i].names_size; next < end; names++)
            next += 1 + *next;
    }
    for (table->name_room = 16; table->name_room < 2 * names + 2;)
        table->name_room *= 2;
    table->names = allocate(table->name_room, sizeof(*table->names));
    table->sets = allocate(table->name_room, sizeof(*table->sets));
    for (uint32_t i = 0; i < part->identity_count; i++)
        add_names(table, i, true);
    for (uint32_t i = 0; i < part->identity_count; i++)
        add_names(table, i, false);
    for (size_t i = 0; i < table->name_room; i++) {
        struct name_entry *entry = &table->names[i];

        if (entry->name != NULL)
            entry->set = intern_set(table, entry->context, entry->members);
    }
}

static void
build_defaults(struct identity_table *table)
{
    for (uint16_t context = 0; context < table->part->context_count; context++) {
        uint32_t members[KEY_SLOTS] = {NO_IDENTITY, NO_IDENTITY, NO_IDENTITY};
        bool any = false;

        for (uint32_t i = 0; i < table->part->identity_count; i++) {
            const struct generation_identity *identity = &table->part->identities[i];
            uint32_t *member = &members[key_slot(identity->key_type)];

            if (identity->context == context && identity->is_default && *member == NO_IDENTITY) {
                *member = i;
                any = true;
            }
        }
        if (any)
            table->defaults[context] = intern_set(table, context, members);
    }
}

struct identity_table *
identity_table_new(const struct generation_public *part, struct keycall *keeper,
                   const struct identity_hooks *hooks, struct error *error)
{
    struct identity_table *table = allocate(1, sizeof(*table));

    table->part = part;
    table->keeper = keeper;
    table->hooks = hooks;
    table->defaults = allocate(part->context_count, sizeof(*table->defaults));
    table->bare = allocate(part->context_count, sizeof(SSL_CTX *));
    table->scopes = allocate(part->context_count, sizeof(*table->scopes));
    for (size_t i = 0; i < part->context_count; i++)
        server_ctx_scope(&part->contexts[i], &part->client_cas[i], table->scopes[i]);
    build_names(table);
    build_defaults(table);
    /* Find a context that libssl does not accept now, not at its first handshake. */
    for (size_t i = 0; i < part->context_count; i++) {
        table->bare[i] = server_ctx_new(&part->contexts[i], &part->client_cas[i], hooks, error);
        if (table->bare[i] == NULL)
            return NULL;
    }
    return table;
}

int
identity_context_find(const struct identity_table *table, const char *name)
{
    for (size_t i = 0; i < table->part->context_count; i++) {
        if (strcmp(table->part->contexts[i].name, name) == 0)
            return (int)i;
    }
    return -1;
}

const struct generation_context *
identity_context(const struct identity_table *table, size_t context)
{
    return &table->part->contexts[context];
}

size_t
identity_context_count(const struct identity_table *table)
{
    return table->part->context_count;
}

static bool
listed(const uint8_t *ids, size_t count, uint32_t id)
{
    struct wire_reader reader;

    wire_reader_init(&reader, ids, 4 * count);
    while (count-- > 0) {
        if (wire_get_u32(&reader) == id)
            return true;
    }
    return false;
}

bool
identity_permitted(const struct identity_table *table, size_t context, uint32_t uid,
                   const uint32_t *groups, size_t group_count)
{
    const struct generation_context *facts = &table->part->contexts[context];

    if (listed(facts->uids, facts->uid_count, uid))
        return true;
    for (size_t i = 0; i < group_count; i++) {
        if (listed(facts->gids, facts->gid_count, groups[i]))
            return true;
    }
    return false;
}

struct identity_set *
identity_find(struct identity_table *table, size_t context, const char *sni)
{
    char name[SERVICE_HOST_MAX + 1];
    size_t size = strlen(sni);
    const char *dot;

    if (size == 0 || size >= SERVICE_HOST_MAX)
        return table->defaults[context];
    for (size_t i = 0; i < size; i++)
        name[i] = (char)tolower((unsigned char)sni[i]);
    if (size > 1 && name[size - 1] == '.')
        size--;
    name[size] = '\0';
    if (name[0] != '*') { /* a client cannot ask for a wildcard itself */
        struct name_entry *entry = name_slot(table, (uint16_t)context, name, size);

        if (entry->name != NULL)
            return entry->set;
        dot = strchr(name, '.');
        if (dot != NULL && dot > name) {
            size_t start = (size_t)(dot - name) - 1;

            name[start] = '*';
            entry = name_slot(table, (uint16_t)context, name + start, size - start);
            if (entry->name != NULL)
                return entry->set;
        }
    }
    return table->defaults[context];
}

static void
list_remove(struct identity_table *table, struct identity_set *set)
{
    *(set->newer != NULL ? &set->newer->older : &table->newest) = set->older;
    *(set->older != NULL ? &set->older->newer : &table->oldest) = set->newer;
    set->newer = set->older = NULL;
}

static void
list_push(struct identity_table *table, struct identity_set *set)
{
    set->older = table->newest;
    set->newer = NULL;
    *(set->older != NULL ? &set->older->newer : &table->oldest) = set;
    table->newest = set;
}

/* The next certificate of a list with 24-bit sizes, or NULL at its end or if it is not one. */
static X509 *
next_certificate(const uint8_t **next, const uint8_t *end)
{
    const uint8_t *der;
    size_t size;

    if (end - *next < 3)
        return NULL;
    size = (size_t)(*next)[0] << 16 | (size_t)(*next)[1] << 8 | (*next)[2];
    der = *next + 3;
    if (size > (size_t)(end - der))
        return NULL;
    *next = der + size;
    return d2i_X509(NULL, &der, (long)size);
}

static int
use_identity(struct identity_table *table, SSL_CTX *ctx, uint32_t number, struct error *error)
{
    const struct generation_identity *identity = &table->part->identities[number];
    const uint8_t *next = identity->chain, *end = next + identity->chain_size;
    X509 *leaf = next_certificate(&next, end), *more;
    STACK_OF(X509) *chain = sk_X509_new_null();
    EVP_PKEY *key = NULL;
    int used = 0;

    while (chain != NULL && (more = next_certificate(&next, end)) != NULL) {
        if (sk_X509_push(chain, more) == 0)
            X509_free(more);
    }
    if (leaf != NULL && chain != NULL)
        key = proxykey_new(table->keeper, identity->key, X509_get0_pubkey(leaf), error);
    if (key != NULL)
        used = SSL_CTX_use_cert_and_key(ctx, leaf, key, chain, 1);
    EVP_PKEY_free(key);
    sk_X509_pop_free(chain, X509_free);
    X509_free(leaf);
    if (used != 1)
        return error_set(error, "libssl does not accept identity %u of context \"%s\": %s", number,
                         table->part->contexts[identity->context].name,
                         ERR_reason_error_string(ERR_peek_last_error()));
    return 0;
}

/* The set's SSL_CTX, made now if it is not hot. */
static SSL_CTX *
set_ctx(struct identity_table *table, struct identity_set *set, struct error *error)
{
    const struct generation_public *part = table->part;

    if (set->ctx != NULL) {
        if (table->newest != set) {
            list_remove(table, set);
            list_push(table, set);
        }
        return set->ctx;
    }
    set->ctx = server_ctx_new(&part->contexts[set->context], &part->client_cas[set->context],
                              table->hooks, error);
    if (set->ctx == NULL)
        return NULL;
    for (size_t slot = 0; slot < KEY_SLOTS; slot++) {
        uint32_t member = set->members[slot];

        if (member != NO_IDENTITY && use_identity(table, set->ctx, member, error) == -1) {
            SSL_CTX_free(set->ctx);
            set->ctx = NULL;
            return NULL;
        }
    }
    list_push(table, set);
    if (++table->hot > HOT_SETS) {
        struct identity_set *coldest = table->oldest;

        list_remove(table, coldest);
        SSL_CTX_free(coldest->ctx); /* running handshakes hold references of their own */
        coldest->ctx = NULL;
        table->hot--;
    }
    return set->ctx;
}

SSL *
identity_ssl_new(struct identity_table *table, size_t context, struct error *error)
{
    struct identity_set *set = table->defaults[context];
    SSL_CTX *ctx = set != NULL ? set_ctx(table, set, error) : table->bare[context];
    SSL *ssl = ctx != NULL ? SSL_new(ctx) : NULL;

    if (ctx != NULL && ssl == NULL)
        error_set(error, "out of memory for a handshake");
    return ssl;
}

int
identity_apply(struct identity_table *table, struct identity_set *set, SSL *ssl,
               struct error *error)
{
    SSL_CTX *ctx = set_ctx(table, set, error);

    if (ctx == NULL)
        return -1;
    if (SSL_get_SSL_CTX(ssl) != ctx && SSL_set_SSL_CTX(ssl, ctx) == NULL)
        return error_set(error, "out of memory for a handshake");
    return 0;
}

const uint8_t *
identity_scope(const struct identity_set *set)
{
    return set->scope;
}
