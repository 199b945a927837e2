/*
 * proxysession.c: what else proxyticket.h offers: sessions for the cache, and what is counted.
 */
#include <string.h>

#include <openssl/evp.h>

#include "agent/binding.h"

/* ---- what is counted ---- */

void
proxyticket_count_into(SSL *ssl, uint64_t *not_resumed)
{
    struct binding *binding = binding_of(ssl);

    if (binding != NULL)
        binding->not_resumed = not_resumed;
}

void
proxyticket_count(const SSL *ssl, enum control_not_resumed why)
{
    const struct binding *binding = binding_of(ssl);

    if (binding != NULL && binding->not_resumed != NULL)
        binding->not_resumed[why]++;
}

void
proxyticket_count_unopened(const SSL *ssl)
{
    const struct binding *binding = binding_of(ssl);

    if (binding == NULL)
        return;
    if (binding->too_many || binding->refusal == KEYOPS_TOO_OFTEN)
        proxyticket_count(ssl, CONTROL_TICKET_TOO_MANY);
    else if (!binding->known_name)
        proxyticket_count(ssl, CONTROL_TICKET_UNKNOWN);
    else if (binding->refusal == KEYOPS_OLD_TICKET)
        proxyticket_count(ssl, CONTROL_TICKET_EXPIRED);
    else if (binding->refusal == KEYOPS_FUTURE_TICKET)
        proxyticket_count(ssl, CONTROL_TICKET_FUTURE);
    else
        proxyticket_count(ssl, CONTROL_TICKET_BAD);
}

/* ---- sessions for the cache ---- */

bool
proxyticket_session_name(const SSL *ssl, const uint8_t *id, size_t id_size,
                         uint8_t name[KEYOPS_SCOPE_SIZE])
{
    static const char label[] = "tlsagent session name";
    const struct binding *binding = binding_of(ssl);
    EVP_MD_CTX *digest = binding != NULL ? EVP_MD_CTX_new() : NULL;
    bool done = digest != NULL && EVP_DigestInit_ex(digest, EVP_sha256(), NULL) == 1 &&
                EVP_DigestUpdate(digest, label, sizeof(label)) == 1 &&
                EVP_DigestUpdate(digest, binding->wish.scope, sizeof(binding->wish.scope)) == 1 &&
                EVP_DigestUpdate(digest, id, id_size) == 1 &&
                EVP_DigestFinal_ex(digest, name, NULL) == 1;

    EVP_MD_CTX_free(digest);
    return done;
}

size_t
proxyticket_seal_session(SSL *ssl, const uint8_t *id, size_t id_size, const uint8_t *session,
                         size_t size, uint8_t *out, size_t room)
{
    struct binding *binding = binding_of(ssl);

    if (binding == NULL || room < KEYOPS_TICKET_EXTRA || size > room - KEYOPS_TICKET_EXTRA ||
        !binding_have_key(ssl, binding))
        return 0;
    memcpy(out, onetime_nonce(&binding->keys), KEYOPS_NONCE_SIZE);
    out += KEYOPS_NONCE_SIZE;
    if (!onetime_seal(&binding->tickets->cipher, &binding->keys, id, id_size, session, size, out,
                      out + size))
        return 0;
    return size + KEYOPS_TICKET_EXTRA;
}

size_t
proxyticket_open_session(SSL *ssl, const uint8_t *id, size_t id_size, const uint8_t *sealed,
                         size_t size, uint8_t *out, size_t room)
{
    struct binding *binding = binding_of(ssl);
    struct keyops_open_ticket request = {.id_size = id_size, .data = sealed, .data_size = size};
    size_t opened = 0;

    if (binding == NULL || id_size > sizeof(request.id) || binding->opens >= PROXYTICKET_OPENS_MAX)
        return 0;
    binding->opens++;
    memcpy(request.id, id, id_size);
    memcpy(request.wish.scope, binding->wish.scope, sizeof(request.wish.scope));
    if (keycall_open_ticket(binding->tickets->keeper, &request, NULL, out, room, &opened) != 0 ||
        opened < 2)
        return 0;
    memmove(out, out + 1, opened - 1); /* in front of it: whether its key is the current one */
    return opened - 1;
}
