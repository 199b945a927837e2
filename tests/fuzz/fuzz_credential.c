/*
 * fuzz_credential.c: certificate, key, passphrase and CA files of every format, as the loader reads
 * them. First byte: which files there are; then the sizes of the first two, two bytes each.
 */
#include "tests/fuzz/fuzz.h"

#include "agent/credential.h"

static void
fuzz_told(void *argument, const char *text)
{
    (void)argument;
    FUZZ_REQUIRE(text[0] != '\0');
}

static void
fuzz_credential(const uint8_t *data, size_t size)
{
    static uint8_t names[CREDENTIAL_NAMES_MAX];
    struct credential_warnings warnings = {fuzz_told, NULL};
    struct load_identity request;
    struct credential credential;
    struct credential_input input;
    struct error error = {""};
    uint8_t *files[3] = {NULL}, *ca;
    size_t sizes[3], names_size, at = 5;
    uint16_t explicit_names;

    if (size < 5)
        return;
    sizes[0] = (size_t)(data[1] << 8 | data[2]);
    sizes[1] = (size_t)(data[3] << 8 | data[4]);
    sizes[2] = size;
    for (size_t i = 0; i < 3; i++) {
        sizes[i] = sizes[i] < size - at ? sizes[i] : size - at;
        files[i] = fuzz_copy(data + at, sizes[i]);
        at += sizes[i];
    }
    if ((data[0] & 4) != 0) {
        struct credential_file file = {"ca", files[0], sizes[0]};

        if (credential_parse_client_ca(&file, 1700000000, &warnings, &ca, &names_size, &error) == 0)
            free(ca);
    } else {
        input.certificate = (struct credential_file){"certificate", files[0], sizes[0]};
        input.key = (struct credential_file){"key", data[0] & 1 ? files[1] : NULL, sizes[1]};
        input.passphrase =
            (struct credential_file){"word", data[0] & 2 ? files[2] : NULL, sizes[2]};
        if (credential_parse(&credential, &input, 1700000000, &warnings, &error) == 0) {
            memset(&request, 0, sizeof(request));
            credential_names(&credential, &request, &warnings, names, &names_size, &explicit_names);
            credential_clear(&credential);
        } else {
            FUZZ_REQUIRE(error.text[0] != '\0');
        }
    }
    for (size_t i = 0; i < 3; i++)
        free(files[i]);
}

FUZZ_TARGET(fuzz_credential)
