/*
 * facts.c: what is known of a connection whose handshake is done. Kept small: one allocation for
 * the texts and the peer's chain.
 */
#include "client/internal.h"

#include <stdlib.h>
#include <string.h>

#define CERTIFICATE_PREFIX 3 /* bytes of a certificate's size in the chain */

/* The certificate at *position: its size; moves *position behind it. 0: there is none. */
static size_t
next_certificate(const uint8_t *chain, size_t chain_size, size_t *position)
{
    size_t size;

    if (chain_size - *position < CERTIFICATE_PREFIX)
        return 0;
    chain += *position;
    size = (size_t)chain[0] << 16 | (size_t)chain[1] << 8 | chain[2];
    if (size > chain_size - *position - CERTIFICATE_PREFIX)
        return 0;
    *position += CERTIFICATE_PREFIX + size;
    return size;
}

bool
facts_chain_valid(const uint8_t *chain, size_t size)
{
    size_t position = 0;

    for (size_t i = 0; i < SERVICE_CHAIN_LENGTH && position < size; i++) {
        if (next_certificate(chain, size, &position) == 0)
            return false;
    }
    return position == size;
}

struct conn_facts *
facts_new(const struct service_finished *said)
{
    size_t context = strlen(said->context) + 1;
    size_t sni = strlen(said->sni) + 1;
    size_t alpn = strlen(said->alpn) + 1;
    struct conn_facts *facts = malloc(sizeof(*facts) + context + sni + alpn + said->chain_size);

    if (facts == NULL)
        return NULL;
    facts->suite = traffic_suite_find(said->state.suite);
    facts->agent_pid = said->agent_pid;
    facts->chain_size = (uint32_t)said->chain_size;
    facts->sni = (uint16_t)context;
    facts->alpn = (uint16_t)(facts->sni + sni);
    facts->chain = (uint16_t)(facts->alpn + alpn);
    facts->form = said->form;
    facts->resumed = said->resumed == 1;
    memcpy(facts->text, said->context, context);
    memcpy(facts->text + facts->sni, said->sni, sni);
    memcpy(facts->text + facts->alpn, said->alpn, alpn);
    if (said->chain_size > 0)
        memcpy(facts->text + facts->chain, said->chain, said->chain_size);
    return facts;
}

static const struct conn_facts *
get(const struct tlsagent_conn *conn)
{
    return conn != NULL ? conn->facts : NULL;
}

int
tlsagent_conn_fd(const struct tlsagent_conn *conn)
{
    return conn != NULL ? conn->fd : -1;
}

const char *
tlsagent_conn_version(const struct tlsagent_conn *conn)
{
    switch (tlsagent_conn_version_number(conn)) {
    case TRAFFIC_TLS_1_2:
        return "TLSv1.2";
    case TRAFFIC_TLS_1_3:
        return "TLSv1.3";
    default:
        return NULL;
    }
}

int
tlsagent_conn_version_number(const struct tlsagent_conn *conn)
{
    const struct conn_facts *facts = get(conn);

    return facts != NULL ? facts->suite->version : 0;
}

const char *
tlsagent_conn_cipher(const struct tlsagent_conn *conn)
{
    const struct conn_facts *facts = get(conn);

    return facts != NULL ? facts->suite->name : NULL;
}

const char *
tlsagent_conn_servername(const struct tlsagent_conn *conn)
{
    const struct conn_facts *facts = get(conn);

    return facts != NULL && facts->text[facts->sni] != '\0' ? facts->text + facts->sni : NULL;
}

const char *
tlsagent_conn_alpn(const struct tlsagent_conn *conn)
{
    const struct conn_facts *facts = get(conn);

    return facts != NULL && facts->text[facts->alpn] != '\0' ? facts->text + facts->alpn : NULL;
}

const char *
tlsagent_conn_form(const struct tlsagent_conn *conn)
{
    const struct conn_facts *facts = get(conn);

    if (facts == NULL)
        return NULL;
    if (facts->form == SERVICE_FORM_KERNEL)
        return conn->plain ? "kernel-plain" : "kernel";
    return facts->form == SERVICE_FORM_STREAM ? "stream" : "records";
}

const char *
tlsagent_conn_context(const struct tlsagent_conn *conn)
{
    const struct conn_facts *facts = get(conn);

    if (facts != NULL)
        return facts->text;
    return conn != NULL && conn->request != NULL ? conn->request->context : NULL;
}

int
tlsagent_conn_resumed(const struct tlsagent_conn *conn)
{
    const struct conn_facts *facts = get(conn);

    return facts != NULL && facts->resumed;
}

pid_t
tlsagent_conn_agent_pid(const struct tlsagent_conn *conn)
{
    const struct conn_facts *facts = get(conn);

    return facts != NULL ? (pid_t)facts->agent_pid : 0;
}

size_t
tlsagent_conn_peer_count(const struct tlsagent_conn *conn)
{
    const struct conn_facts *facts = get(conn);
    size_t position = 0, count = 0;

    if (facts == NULL)
        return 0;
    while (next_certificate((const uint8_t *)facts->text + facts->chain, facts->chain_size,
                            &position) > 0)
        count++;
    return count;
}

const uint8_t *
tlsagent_conn_peer_der(const struct tlsagent_conn *conn, size_t index, size_t *size)
{
    const struct conn_facts *facts = get(conn);
    const uint8_t *chain;
    size_t position = 0, length;

    *size = 0;
    if (facts == NULL)
        return NULL;
    chain = (const uint8_t *)facts->text + facts->chain;
    do
        length = next_certificate(chain, facts->chain_size, &position);
    while (length > 0 && index-- > 0);
    if (length == 0)
        return NULL;
    *size = length;
    return chain + position - length;
}
