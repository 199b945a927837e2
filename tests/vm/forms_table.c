/* forms_table.c: every test of Linux's own kernel TLS selftest (tools/testing/selftests/net/tls.c,
 * as of Linux 7.1) and what replicates it here, in each form. */
#include "tests/vm/forms.h"

static const char in_kernel_only[] = "the socket itself carries plaintext in the kernel form only";
static const char no_new_keys[] = "Linux 6.14 is needed to change keys: mocked in unit/kernel_tls";

static const struct row {
    const char *theirs;
    const char *ours;    /* a case; NULL: none */
    const char *because; /* does not apply: where there is no case, or not in both forms */
} rows[] = {
    {"tls_basic.base_base", "socket_with_the_protocol_and_no_keys_carries_records", in_kernel_only},
    {"tls_basic.bad_cipher", "bad_cipher", in_kernel_only},
    {"tls_basic.rekey_rx", NULL, no_new_keys},
    {"tls_basic.rekey_tx", NULL, no_new_keys},
    {"tls_basic.disconnect", "disconnect", in_kernel_only},
    {"tls.sendfile", "sendfile", NULL},
    {"tls.send_then_sendfile", "send_then_sendfile", NULL},
    {"tls.multi_chunk_sendfile", "multi_chunk_sendfile", NULL},
    {"tls.recv_max", "recv_max", NULL},
    {"tls.recv_small", "recv_small", NULL},
    {"tls.msg_more", "msg_more", in_kernel_only},
    {"tls.cmsg_msg_more", "cmsg_msg_more", in_kernel_only},
    {"tls.msg_more_then_cmsg", "msg_more_unsent", in_kernel_only},
    {"tls.msg_more_unsent", "shutdown_unsent", in_kernel_only},
    {"tls.msg_eor", "msg_eor", in_kernel_only},
    {"tls.sendmsg_single", "sendmsg_single", NULL},
    {"tls.sendmsg_fragmented", "sendmsg_fragmented", NULL},
    {"tls.sendmsg_large", "sendmsg_large", NULL},
    {"tls.sendmsg_multiple", "sendmsg_multiple", NULL},
    {"tls.sendmsg_multiple_stress", "sendmsg_multiple_stress", NULL},
    {"tls.splice_from_pipe", "splice_from_pipe", in_kernel_only},
    {"tls.splice_more", "splice_more", in_kernel_only},
    {"tls.splice_from_pipe2", "splice_from_pipe2", in_kernel_only},
    {"tls.send_and_splice", "send_and_splice", in_kernel_only},
    {"tls.splice_to_pipe", "splice_to_pipe", in_kernel_only},
    {"tls.splice_cmsg_to_pipe", "splice_cmsg_to_pipe", in_kernel_only},
    {"tls.splice_dec_cmsg_to_pipe", "splice_dec_cmsg_to_pipe", in_kernel_only},
    {"tls.recv_and_splice", "recv_and_splice", in_kernel_only},
    {"tls.peek_and_splice", "peek_and_splice", in_kernel_only},
    {"tls.splice_to_pipe_small", "splice_to_pipe_small", in_kernel_only},
    {"tls.splice_short", "splice_short", in_kernel_only},
    {"tls.recvmsg_single", "recv_small", NULL},
    {"tls.recvmsg_single_max", "recv_max", NULL},
    {"tls.recvmsg_multiple", "recvmsg_multiple", NULL},
    {"tls.single_send_multiple_recv", "single_send_multiple_recv", NULL},
    {"tls.multiple_send_single_recv", "multiple_send_single_recv", NULL},
    {"tls.single_send_multiple_recv_non_align", "single_send_multiple_recv_non_align", NULL},
    {"tls.recv_partial", "recv_partial", NULL},
    {"tls.recv_nonblock", "recv_nonblock", NULL},
    {"tls.recv_peek", "recv_peek", NULL},
    {"tls.recv_peek_multiple", "recv_peek", NULL},
    {"tls.recv_peek_multiple_records", "recv_peek_multiple_records", NULL},
    {"tls.recv_peek_large_buf_mult_recs", "recv_waitall", in_kernel_only},
    {"tls.recv_lowat", "recv_lowat", NULL},
    {"tls.bidir", "bidirectional", NULL},
    {"tls.pollin", "poll_tells", NULL},
    {"tls.poll_wait", "poll_tells", NULL},
    {"tls.poll_wait_split", "poll_tells", NULL},
    {"tls.blocking", "sendmsg_large", NULL},
    {"tls.nonblocking", "nonblocking_against_a_slow_reader", NULL},
    {"tls.mutliproc_even", "mutliproc_even", in_kernel_only},
    {"tls.mutliproc_readers", "mutliproc_readers", in_kernel_only},
    {"tls.mutliproc_writers", "mutliproc_writers", in_kernel_only},
    {"tls.mutliproc_sendpage_even", "mutliproc_sendpage_even", in_kernel_only},
    {"tls.mutliproc_sendpage_readers", "mutliproc_sendpage_readers", in_kernel_only},
    {"tls.mutliproc_sendpage_writers", "mutliproc_sendpage_writers", in_kernel_only},
    {"tls.control_msg", "unknown_record_type", NULL},
    {"tls.control_msg_nomerge", "control_between_data", NULL},
    {"tls.data_control_data", "control_between_data", NULL},
    {"tls.shutdown", "shutdown", NULL},
    {"tls.shutdown_unsent", "shutdown_unsent", in_kernel_only},
    {"tls.shutdown_reuse", "shutdown_reuse", in_kernel_only},
    {"tls.getsockopt", "getsockopt", in_kernel_only},
    {"tls.recv_efault", "recv_efault", "a program that gives a library a bad pointer crashes"},
    {"tls.rekey", "key_update_with_request", NULL},
    {"tls.rekey_fail", "key_update", NULL},
    {"tls.rekey_peek", "key_update_between_data", NULL},
    {"tls.splice_rekey", NULL, no_new_keys},
    {"tls.rekey_peek_splice", NULL, no_new_keys},
    {"tls.rekey_getsockopt", NULL, no_new_keys},
    {"tls.rekey_poll_pending", "key_update_between_data", NULL},
    {"tls.rekey_poll_delay", "key_update_in_pieces", NULL},
    {"zero_len.test", "zero_length_orders", NULL},
    {"zero_len_peek.test", "zero_length_orders", NULL},
    {"zero_len_splice.test", "zero_length_record_and_splice", in_kernel_only},
    {"tls_err.bad_rec", "bad_record", NULL},
    {"tls_err.bad_auth", "bad_auth", NULL},
    {"tls_err.bad_in_large_read", "bad_in_large_read", NULL},
    {"tls_err.bad_cmsg", "bad_control_record", NULL},
    {"tls_err.timeo", "receive_timeout", NULL},
    {"tls_err.poll_partial_rec", "poll_partial_record", NULL},
    {"tls_err.epoll_partial_rec", "epoll_partial_record", NULL},
    {"tls_err.poll_partial_rec_async", "poll_partial_record_asleep", NULL},
    {"tls_err.oob_pressure", "oob_pressure", NULL},
    {"tls_12_tx_max_payload_len", "small_fragments_get_records", NULL},
    {"tls_12_tx_max_payload_len_open_rec", NULL,
     "Linux 6.19 is needed to limit records: who asks for small ones gets the records form"},
    {"non_established", "non_established", in_kernel_only},
    {"keysizes", "every_suite", NULL},
    {"no_pad", "padded_records", NULL},
    {"tls_v6ops", "ipv6", NULL},
    {"prequeue", "prequeue", NULL},
    {"data_steal", "data_steal", NULL},
};

static const struct test_case *
find_case(const char *name)
{
    const struct test_case *tables[] = {data_cases, socket_cases, end_cases, form_cases};

    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
        for (const struct test_case *test = tables[i]; test->name != NULL; test++) {
            if (strcmp(test->name, name) == 0)
                return test;
        }
    }
    return NULL;
}

bool
table_print(void)
{
    size_t count = sizeof(rows) / sizeof(rows[0]), replicated = 0;
    bool good = true;

    printf("# %-38s %-52s %s\n", "Linux's selftest", "kernel", "records");
    for (size_t i = 0; i < count; i++) {
        const struct row *row = &rows[i];
        const struct test_case *test = row->ours != NULL ? find_case(row->ours) : NULL;
        bool both = test != NULL && (test->when & (KERNEL | RECORDS)) == 0;

        if ((row->ours != NULL && test == NULL) || (!both && row->because == NULL)) {
            printf("# %s: no case \"%s\", or no reason\n", row->theirs,
                   row->ours != NULL ? row->ours : "");
            good = false;
        }
        replicated += test != NULL;
        printf("# %-38s %-52s %s%s\n", row->theirs, test != NULL ? row->ours : "-",
               both ? row->ours : "does not apply: ", both ? "" : row->because);
    }
    printf("# %zu of %zu replicated\n", replicated, count);
    return good;
}
