/* fuzz_control.c: the supervisor's channels: to its cells, to the loader, to the command. The first
 * byte chooses the decoder. */
#include "tests/fuzz/fuzz.h"

#include "protocol/admin.h"
#include "protocol/control.h"
#include "protocol/load.h"

static void
fuzz_control(const uint8_t *data, size_t size)
{
    static uint8_t out[CHANNEL_BODY_MAX];
    size_t again = 0, body_size = size > 0 ? size - 1 : 0;
    uint8_t *body;
    bool understood = false;
    union {
        struct control_hello hello;
        struct control_ready ready;
        struct control_ping ping;
        struct control_pong pong;
        struct control_context_counters context_counters;
        struct control_generation generation;
        struct control_listener listener;
        struct control_worker worker;
        struct load_begin load_begin;
        struct load_context load_context;
        struct load_file_message load_file;
        struct load_identity load_identity;
        struct load_text load_text;
        struct load_done load_done;
        struct admin_agent admin_agent;
        struct admin_process admin_process;
        struct admin_context admin_context;
        struct control_dismiss dismiss;
        struct admin_ban ban;
        struct load_tickets load_tickets;
    } m;

    if (size == 0 || body_size > CHANNEL_BODY_MAX)
        return;
    body = fuzz_copy(data + 1, body_size);
    memset(&m, 0, sizeof(m));
    switch (data[0] % 20) {
    case 0:
        understood = control_get_hello(&m.hello, body, body_size);
        if (understood)
            again = control_put_hello(&m.hello, out, sizeof(out));
        break;
    case 1:
        understood = control_get_ready(&m.ready, body, body_size);
        if (understood)
            again = control_put_ready(&m.ready, out, sizeof(out));
        break;
    case 2:
        understood = control_get_ping(&m.ping, body, body_size);
        if (understood)
            again = control_put_ping(&m.ping, out, sizeof(out));
        break;
    case 3:
        understood = control_get_pong(&m.pong, body, body_size);
        if (understood)
            again = control_put_pong(&m.pong, out, sizeof(out));
        break;
    case 4:
        understood = control_get_context_counters(&m.context_counters, body, body_size);
        if (understood)
            again = control_put_context_counters(&m.context_counters, out, sizeof(out));
        break;
    case 5:
        understood = control_get_generation(&m.generation, body, body_size);
        if (understood)
            again = control_put_generation(&m.generation, out, sizeof(out));
        break;
    case 6:
        understood = control_get_listener(&m.listener, body, body_size);
        if (understood)
            again = control_put_listener(&m.listener, out, sizeof(out));
        break;
    case 7:
        understood = control_get_worker(&m.worker, body, body_size);
        if (understood)
            again = control_put_worker(&m.worker, out, sizeof(out));
        break;
    case 8:
        understood = load_get_begin(&m.load_begin, body, body_size);
        if (understood)
            again = load_put_begin(&m.load_begin, out, sizeof(out));
        break;
    case 9:
        understood = load_get_context(&m.load_context, body, body_size);
        if (understood)
            again = load_put_context(&m.load_context, out, sizeof(out));
        break;
    case 10:
        understood = load_get_file_message(&m.load_file, body, body_size);
        if (understood)
            again = load_put_file_message(&m.load_file, out, sizeof(out));
        break;
    case 11:
        understood = load_get_identity(&m.load_identity, body, body_size);
        if (understood)
            again = load_put_identity(&m.load_identity, out, sizeof(out));
        break;
    case 12:
        understood = load_get_text(&m.load_text, body, body_size);
        if (understood)
            again = load_put_text(&m.load_text, out, sizeof(out));
        break;
    case 13:
        understood = load_get_done(&m.load_done, body, body_size);
        if (understood)
            again = load_put_done(&m.load_done, out, sizeof(out));
        break;
    case 14:
        understood = admin_get_agent(&m.admin_agent, body, body_size);
        if (understood)
            again = admin_put_agent(&m.admin_agent, out, sizeof(out));
        break;
    case 15:
        understood = admin_get_process(&m.admin_process, body, body_size);
        if (understood)
            again = admin_put_process(&m.admin_process, out, sizeof(out));
        break;
    case 16:
        understood = admin_get_context(&m.admin_context, body, body_size);
        if (understood)
            again = admin_put_context(&m.admin_context, out, sizeof(out));
        break;
    case 17:
        understood = control_get_dismiss(&m.dismiss, body, body_size);
        if (understood)
            again = control_put_dismiss(&m.dismiss, out, sizeof(out));
        break;
    case 18:
        understood = admin_get_ban(&m.ban, body, body_size);
        if (understood)
            again = admin_put_ban(&m.ban, out, sizeof(out));
        break;
    case 19:
        understood = load_get_tickets(&m.load_tickets, body, body_size);
        if (understood)
            again = load_put_tickets(&m.load_tickets, out, sizeof(out));
        break;
    default:
        break;
    }
    /* What was understood can be said again, and is then the same to the last byte. */
    FUZZ_REQUIRE(!understood || (again == body_size && memcmp(out, body, again) == 0));
    free(body);
}

FUZZ_TARGET(fuzz_control)
