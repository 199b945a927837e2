/* test_wire.c: the cursor codec: round trips, the sticky error, and every bound. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/wire.h"

START_TEST(values_make_the_round_trip)
{
    static const uint8_t expected[] = {
        0x12, 0x34, 0x56, 0x12, 0x34, 0x56, 0x78, 1, 2, 3, 4, 5,    6, 7,   8,   9, 8,
        7,    1,    'x',  0,    2,    0,    1,    0, 0, 0, 1, 0xff, 2, 'h', 'i', 0,
    };
    static const uint8_t raw[] = {9, 8, 7}, pair[] = {0, 1}, one[] = {0xff};
    uint8_t buffer[64], copy[3];
    char text[8];
    struct wire_writer writer;
    struct wire_reader reader;
    const uint8_t *bytes;
    size_t size;

    wire_writer_init(&writer, buffer, sizeof(buffer));
    wire_put_u8(&writer, 0x12);
    wire_put_u16(&writer, 0x3456);
    wire_put_u32(&writer, 0x12345678);
    wire_put_u64(&writer, 0x0102030405060708);
    wire_put_bytes(&writer, raw, sizeof(raw));
    wire_put_string(&writer, 1, "x", 1);
    wire_put_string(&writer, 2, pair, sizeof(pair));
    wire_put_string(&writer, 4, one, sizeof(one));
    wire_put_text(&writer, "hi");
    wire_put_text(&writer, NULL);
    ck_assert_uint_eq(wire_size(&writer), sizeof(expected));
    ck_assert_mem_eq(buffer, expected, sizeof(expected));

    wire_reader_init(&reader, buffer, sizeof(expected));
    ck_assert_uint_eq(wire_get_u8(&reader), 0x12);
    ck_assert_uint_eq(wire_get_u16(&reader), 0x3456);
    ck_assert_uint_eq(wire_get_u32(&reader), 0x12345678);
    ck_assert_uint_eq(wire_get_u64(&reader), 0x0102030405060708);
    wire_get_bytes(&reader, copy, sizeof(copy));
    ck_assert_mem_eq(copy, raw, sizeof(raw));
    bytes = wire_get_string(&reader, 1, 1, &size);
    ck_assert_uint_eq(size, 1);
    ck_assert_mem_eq(bytes, "x", 1);
    bytes = wire_get_string(&reader, 2, 2, &size);
    ck_assert_uint_eq(size, 2);
    ck_assert_mem_eq(bytes, pair, 2);
    bytes = wire_get_string(&reader, 4, 1, &size);
    ck_assert_uint_eq(size, 1);
    ck_assert_uint_eq(bytes[0], 0xff);
    wire_get_text(&reader, text, sizeof(text));
    ck_assert_str_eq(text, "hi");
    ck_assert(!wire_done(&reader));
    wire_get_text(&reader, text, sizeof(text));
    ck_assert_str_eq(text, "");
    ck_assert(wire_done(&reader));
}
END_TEST

START_TEST(a_writer_stops_at_its_room)
{
    uint8_t buffer[16];

    /* Eleven bytes are written below; every smaller room must fail and stay untouched behind. */
    for (size_t room = 0; room <= 12; room++) {
        struct wire_writer writer;

        memset(buffer, 0xaa, sizeof(buffer));
        wire_writer_init(&writer, buffer, room);
        wire_put_u8(&writer, 1);
        wire_put_u16(&writer, 2);
        wire_put_u32(&writer, 3);
        wire_put_text(&writer, "abc");
        ck_assert_uint_eq(wire_size(&writer), room >= 11 ? 11 : 0);
        for (size_t i = room; i < sizeof(buffer); i++)
            ck_assert_uint_eq(buffer[i], 0xaa);
    }
}
END_TEST

START_TEST(a_writers_error_sticks)
{
    uint8_t buffer[4];
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, sizeof(buffer));
    wire_put_u64(&writer, 1);
    memset(buffer, 0xaa, sizeof(buffer));
    wire_put_u8(&writer, 1); /* would fit */
    wire_put_text(&writer, "");
    wire_put_bytes(&writer, "x", 1);
    ck_assert_uint_eq(wire_size(&writer), 0);
    for (size_t i = 0; i < sizeof(buffer); i++)
        ck_assert_uint_eq(buffer[i], 0xaa);
}
END_TEST

START_TEST(a_length_that_does_not_fit_its_prefix_is_an_error)
{
    static uint8_t buffer[70000], data[65536];
    struct wire_writer writer;

    wire_writer_init(&writer, buffer, sizeof(buffer));
    wire_put_string(&writer, 1, data, 255);
    ck_assert_uint_eq(wire_size(&writer), 256);
    wire_writer_init(&writer, buffer, sizeof(buffer));
    wire_put_string(&writer, 1, data, 256);
    ck_assert_uint_eq(wire_size(&writer), 0);
    wire_writer_init(&writer, buffer, sizeof(buffer));
    wire_put_string(&writer, 2, data, 65535);
    ck_assert_uint_eq(wire_size(&writer), 65537);
    wire_writer_init(&writer, buffer, sizeof(buffer));
    wire_put_string(&writer, 2, data, 65536);
    ck_assert_uint_eq(wire_size(&writer), 0);
    wire_writer_init(&writer, buffer, sizeof(buffer));
    wire_put_string(&writer, 4, data, 65536);
    ck_assert_uint_eq(wire_size(&writer), 65540);
}
END_TEST

/* Each kind of read from a message that is one byte too short for it. */
START_TEST(a_read_past_the_end_gives_zeros_and_sticks)
{
    static const uint8_t data[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    static const size_t sizes[] = {1, 2, 4, 8, 3, 2};
    struct wire_reader reader;
    uint8_t copy[3] = {7, 7, 7};
    char text[8] = "before";
    size_t size = 99;

    wire_reader_init(&reader, data, sizes[_i] - 1);
    switch (_i) {
    case 0:
        ck_assert_uint_eq(wire_get_u8(&reader), 0);
        break;
    case 1:
        ck_assert_uint_eq(wire_get_u16(&reader), 0);
        break;
    case 2:
        ck_assert_uint_eq(wire_get_u32(&reader), 0);
        break;
    case 3:
        ck_assert_uint_eq(wire_get_u64(&reader), 0);
        break;
    case 4:
        wire_get_bytes(&reader, copy, sizeof(copy));
        ck_assert_uint_eq(copy[0] | copy[1] | copy[2], 0);
        break;
    default: /* says one byte and has none */
        ck_assert_ptr_null(wire_get_string(&reader, 1, 10, &size));
        ck_assert_uint_eq(size, 0);
    }
    ck_assert(!wire_done(&reader));
    /* Whatever is asked now: zeros. */
    ck_assert_uint_eq(wire_get_u8(&reader), 0);
    ck_assert_ptr_null(wire_get_string(&reader, 2, 10, &size));
    wire_get_text(&reader, text, sizeof(text));
    ck_assert_str_eq(text, "");
    wire_get_bytes(&reader, copy, 0);
    ck_assert(!wire_done(&reader));
}
END_TEST

START_TEST(a_string_longer_than_its_limit_is_refused)
{
    static const uint8_t data[] = {4, 'a', 'b', 'c', 'd'};
    struct wire_reader reader;
    size_t size;

    wire_reader_init(&reader, data, sizeof(data));
    ck_assert_ptr_nonnull(wire_get_string(&reader, 1, 4, &size));
    ck_assert(wire_done(&reader));
    wire_reader_init(&reader, data, sizeof(data));
    ck_assert_ptr_null(wire_get_string(&reader, 1, 3, &size));
    ck_assert_uint_eq(size, 0);
    ck_assert(!wire_done(&reader));
}
END_TEST

START_TEST(a_huge_length_reads_nothing)
{
    static const uint8_t data[] = {0xff, 0xff, 0xff, 0xff, 1};
    struct wire_reader reader;
    size_t size;

    wire_reader_init(&reader, data, sizeof(data));
    ck_assert_ptr_null(wire_get_string(&reader, 4, SIZE_MAX, &size));
    ck_assert_uint_eq(size, 0);
    ck_assert(!wire_done(&reader));
}
END_TEST

START_TEST(a_text_fits_with_its_end_and_holds_no_nul)
{
    static const uint8_t data[] = {3, 'a', 'b', 'c'}, nul[] = {3, 'a', 0, 'c'};
    struct wire_reader reader;
    char text[8];

    wire_reader_init(&reader, data, sizeof(data));
    wire_get_text(&reader, text, 4);
    ck_assert_str_eq(text, "abc");
    ck_assert(wire_done(&reader));
    memset(text, 'z', sizeof(text));
    wire_reader_init(&reader, data, sizeof(data));
    wire_get_text(&reader, text, 3);
    ck_assert_str_eq(text, "");
    ck_assert_int_eq(text[3], 'z');
    ck_assert(!wire_done(&reader));
    wire_reader_init(&reader, nul, sizeof(nul));
    wire_get_text(&reader, text, sizeof(text));
    ck_assert_str_eq(text, "");
    ck_assert(!wire_done(&reader));
}
END_TEST

START_TEST(an_empty_string_is_not_an_error)
{
    static const uint8_t data[] = {0};
    struct wire_reader reader;
    size_t size = 99;

    wire_reader_init(&reader, data, sizeof(data));
    ck_assert_ptr_nonnull(wire_get_string(&reader, 1, 0, &size));
    ck_assert_uint_eq(size, 0);
    ck_assert(wire_done(&reader));
}
END_TEST

START_TEST(trailing_bytes_and_empty_messages)
{
    static const uint8_t data[] = {1, 2};
    struct wire_reader reader;

    wire_reader_init(&reader, data, sizeof(data));
    ck_assert_uint_eq(wire_get_u8(&reader), 1);
    ck_assert(!wire_done(&reader));
    ck_assert_uint_eq(wire_get_u8(&reader), 2);
    ck_assert(wire_done(&reader));
    wire_reader_init(&reader, NULL, 0);
    ck_assert(wire_done(&reader));
    ck_assert_uint_eq(wire_get_u8(&reader), 0);
    ck_assert(!wire_done(&reader));
    wire_reader_init(&reader, NULL, 7); /* no data: the size is not believed */
    ck_assert_uint_eq(wire_get_u8(&reader), 0);
    ck_assert(!wire_done(&reader));
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("wire");
    TCase *tcase = tcase_create("wire");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_test(tcase, values_make_the_round_trip);
    tcase_add_test(tcase, a_writer_stops_at_its_room);
    tcase_add_test(tcase, a_writers_error_sticks);
    tcase_add_test(tcase, a_length_that_does_not_fit_its_prefix_is_an_error);
    tcase_add_loop_test(tcase, a_read_past_the_end_gives_zeros_and_sticks, 0, 6);
    tcase_add_test(tcase, a_string_longer_than_its_limit_is_refused);
    tcase_add_test(tcase, a_huge_length_reads_nothing);
    tcase_add_test(tcase, a_text_fits_with_its_end_and_holds_no_nul);
    tcase_add_test(tcase, an_empty_string_is_not_an_error);
    tcase_add_test(tcase, trailing_bytes_and_empty_messages);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
