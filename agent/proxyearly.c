/*
 * proxyearly.c: tickets that are opened before libssl asks for it, several in one call.
 *
 * libssl wants a ticket opened at once. A call costs two changes of context, and where a server is
 * busy several ClientHellos are read in each round of its loop: so the ClientHello callback sets
 * their handshakes aside (SSL_CLIENT_HELLO_RETRY), and at the end of the round all their tickets go
 * to the keeper together. What comes back lies in the connection's binding until the cipher is
 * given the very same bytes to open.
 *
 * Trust: the bytes are the peer's. Only a ticket that passes the filter is sent, one per
 * connection; it draws from the account of PROXYTICKET_OPENS_MAX. Whatever is unusual (a long
 * ticket, a second one, none) is left to libssl and the calls that it makes.
 */
#include <string.h>

#include <openssl/crypto.h>

#include "agent/binding.h"
#include "protocol/hkdf.h"

#define HEAD_SIZE (KEYOPS_KEY_NAME_SIZE + KEYOPS_NONCE_SIZE)

enum state {
    EARLY_WAITS,
    EARLY_OPENED,
    EARLY_TOLD, /* and the handshake has gone on */
};

struct early {
    enum state state;
    SSL *ssl;            /* not owned */
    struct early *next;  /* in the list that it is in */
    struct early **link; /* what points to it there; NULL: in none */
    struct keycall_opening opening;
    size_t sealed_size;
    uint8_t bytes[2 * (KEYOPS_BATCH_TICKET + 1)]; /* sealed_size, and then what is in them */
};

static void
enter_list(struct early **list, struct early *early)
{
    early->next = *list;
    early->link = list;
    if (early->next != NULL)
        early->next->link = &early->next;
    *list = early;
}

static void
leave_list(struct early *early)
{
    if (early->link == NULL)
        return;
    *early->link = early->next;
    if (early->next != NULL)
        early->next->link = early->link;
    early->next = NULL;
    early->link = NULL;
}

void
early_free(struct early *early)
{
    if (early == NULL)
        return;
    leave_list(early);
    OPENSSL_clear_free(early, offsetof(struct early, bytes) + 2 * early->sealed_size);
}

bool
early_has_nonce(const struct early *early, const uint8_t *nonce)
{
    return early != NULL && early->state != EARLY_WAITS &&
           memcmp(early->bytes, nonce, KEYOPS_NONCE_SIZE) == 0;
}

bool
early_has(const struct early *early, const uint8_t *nonce, const uint8_t *bytes, size_t size,
          int *refusal, const uint8_t **result, size_t *result_size)
{
    if (!early_has_nonce(early, nonce) || early->sealed_size != KEYOPS_NONCE_SIZE + size ||
        memcmp(early->bytes + KEYOPS_NONCE_SIZE, bytes, size) != 0)
        return false;
    *refusal = early->opening.refusal;
    *result = early->opening.result;
    *result_size = early->opening.size;
    return true;
}

/* Is it one of ours, as far as one can see here? */
static bool
passes_filter(const struct proxyticket *tickets, const uint8_t *ticket, size_t size)
{
    size_t i = binding_filter(tickets, ticket);
    uint8_t value[HKDF_HASH_MAX];

    return i < tickets->filter_count &&
           hkdf_hmac(KEYOPS_HMAC_SIZE, tickets->filters[i] + KEYOPS_KEY_NAME_SIZE, KEYOPS_HMAC_SIZE,
                     ticket, size - KEYOPS_HMAC_SIZE, value) &&
           CRYPTO_memcmp(value, ticket + size - KEYOPS_HMAC_SIZE, KEYOPS_HMAC_SIZE) == 0;
}

bool
proxyticket_wait(SSL *ssl, const uint8_t *ticket, size_t size, bool renewed)
{
    struct binding *binding = binding_of(ssl);
    size_t sealed_size;
    struct early *early;

    if (binding == NULL || binding->tickets->go_on == NULL || binding->opens > 0 ||
        binding->early != NULL || size < HEAD_SIZE + KEYOPS_HMAC_SIZE)
        return false;
    sealed_size = size - KEYOPS_KEY_NAME_SIZE - KEYOPS_HMAC_SIZE;
    if (sealed_size < KEYOPS_TICKET_EXTRA || sealed_size > KEYOPS_BATCH_TICKET ||
        !passes_filter(binding->tickets, ticket, size))
        return false;
    early = OPENSSL_malloc(offsetof(struct early, bytes) + 2 * sealed_size);
    if (early == NULL)
        return false;
    memset(early, 0, offsetof(struct early, bytes));
    early->ssl = ssl;
    early->sealed_size = sealed_size;
    memcpy(early->bytes, ticket + KEYOPS_KEY_NAME_SIZE, sealed_size);
    early->opening.request.wish = binding->wish;
    early->opening.request.wish.keys = renewed && binding->wish.keys > 0;
    early->opening.request.data = early->bytes;
    early->opening.request.data_size = sealed_size;
    early->opening.keys = &binding->keys;
    early->opening.result = early->bytes + sealed_size;
    early->opening.room = sealed_size; /* KEYOPS_TICKET_EXTRA more than it needs */
    binding->opens++;
    binding->early = early;
    enter_list(&binding->tickets->waiting, early);
    return true;
}

bool
proxyticket_waits(const SSL *ssl)
{
    const struct binding *binding = binding_of(ssl);

    return binding != NULL && binding->early != NULL && binding->early->state == EARLY_WAITS;
}

bool
proxyticket_has_waited(const SSL *ssl)
{
    struct binding *binding = binding_of(ssl);

    if (binding == NULL || binding->early == NULL || binding->early->state != EARLY_OPENED)
        return false;
    binding->early->state = EARLY_TOLD;
    return true;
}

void
proxyticket_let_wait(struct proxyticket *tickets, void (*go_on)(SSL *ssl))
{
    tickets->go_on = go_on;
}

void
proxyticket_open_waiting(struct proxyticket *tickets)
{
    struct keycall_opening *openings[KEYOPS_BATCH_MAX];
    struct early *opened = NULL;

    while (tickets->waiting != NULL) {
        size_t count = 0;

        while (tickets->waiting != NULL && count < KEYOPS_BATCH_MAX) {
            struct early *early = tickets->waiting;

            leave_list(early);
            enter_list(&opened, early);
            early->state = EARLY_OPENED;
            openings[count++] = &early->opening;
        }
        keycall_open_tickets(tickets->keeper, openings, count);
        /* Each may end itself, or others: they leave the list then. */
        while (opened != NULL) {
            struct early *early = opened;

            leave_list(early);
            tickets->go_on(early->ssl);
        }
    }
}
