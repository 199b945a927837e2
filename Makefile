# tlsagent: build, run, test, install. One file, read it in one go.
#
#   make          build everything into $(BUILD)
#   make run      install what is missing, build, start the agent and a demo HTTPS server
#   make check    install what is missing, build, run every test
#   make help     the other targets

VERSION := 0.1.0
BUILD   ?= build
PREFIX  ?= /usr/local
SYSCONFDIR ?= /etc
CC      ?= cc

WARNINGS := -Wall -Wextra -Werror -Wshadow -Wmissing-prototypes -Wstrict-prototypes -Wpointer-arith \
            -Wwrite-strings -Wvla -Wformat=2
HARDEN   := -fstack-protector-strong -fstack-clash-protection -fcf-protection -U_FORTIFY_SOURCE \
            -D_FORTIFY_SOURCE=2
OPT      ?= -O2
ifdef SAN # make SAN=1: AddressSanitizer and UndefinedBehaviorSanitizer (see check-asan)
HARDEN   := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -DSANITIZED
OPT      := -O1
LDFLAGS  += -fsanitize=address,undefined
endif
ifdef FUZZ # make FUZZ=1 CC=clang: for libFuzzer (see fuzz)
HARDEN   := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -DSANITIZED -DFUZZING $(FUZZ_FLAGS)
OPT      := -O1
LDFLAGS  += -fsanitize=address,undefined $(FUZZ_FLAGS)
WARNINGS += -Wno-format-nonliteral -Wno-missing-field-initializers # clang is stricter than gcc
endif
CFLAGS   ?= $(OPT) -g
LIBEXECDIR ?= $(PREFIX)/libexec/tlsagent
LDCONFIG ?= PATH=$$PATH:/usr/sbin:/sbin ldconfig
CPPFLAGS += -I. -D_GNU_SOURCE
SETTINGS := -DTLSAGENT_VERSION='"$(VERSION)"' -DTLSAGENT_SYSCONFDIR='"$(SYSCONFDIR)"' \
            -DTLSAGENT_LIBEXECDIR='"$(LIBEXECDIR)"'
COMPILE   = $(CC) -std=c11 $(CPPFLAGS) $(CFLAGS) $(HARDEN) $(WARNINGS) -fPIC -fvisibility=hidden -pthread -MMD -MP
LINK      = $(CC) $(CFLAGS) $(LDFLAGS) -pie -pthread -Wl,-z,relro,-z,now,-z,noexecstack

PROTOCOL := $(patsubst %.c,$(BUILD)/%.o,$(wildcard protocol/*.c))
SANDBOX  := $(patsubst %.c,$(BUILD)/%.o,$(wildcard sandbox/*.c))
AGENT    := $(patsubst %.c,$(BUILD)/%.o,$(filter-out agent/main.c,$(wildcard agent/*.c))) $(BUILD)/build_id.o
CLIENT   := $(patsubst %.c,$(BUILD)/%.o,$(wildcard client/*.c))
RELAY    := $(patsubst %.c,$(BUILD)/%.o,$(filter-out client/relay/main.c,$(wildcard client/relay/*.c)))
TOOL     := $(patsubst %.c,$(BUILD)/%.o,$(wildcard client/tool/*.c))
EXAMPLES := $(patsubst client/examples/%.c,$(BUILD)/examples/%,$(wildcard client/examples/*.c))
UNIT     := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/unit/test_*.c))
HOSTILE  := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/hostile/test_*.c))
FUZZERS  := $(patsubst tests/fuzz/fuzz_%.c,$(BUILD)/tests/fuzz/fuzz_%,$(wildcard tests/fuzz/fuzz_*.c))
PEERS    := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/peers/*.c))
# The same programs in the stream form.
STREAMED := $(BUILD)/tests/peers/https-server-stream $(BUILD)/tests/peers/worker-stream
BENCH    := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/bench/*.c))
FORMS    := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/vm/*.c))

AGENT_LIBS  := -lssl -lcrypto -lseccomp -lconfuse -lhiredis
CLIENT_LIBS := -lcrypto
CHECK_LIBS   = $(shell pkg-config --libs check)

, := ,
# One line per file; make V=1 shows the commands.
Q = @echo '  $@';
ifdef V
Q =
endif

.SECONDARY:
.PHONY: all run check check-unit check-e2e check-asan check-all fuzz lint format install clean help
all: $(BUILD)/tlsagentd $(BUILD)/tlsagent $(BUILD)/tlsagent-relay $(BUILD)/libtlsagent.so.0 $(BUILD)/libtlsagent.a \
     $(EXAMPLES)

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(Q)$(COMPILE) -c $< -o $@

# Only these know the version and where things are installed; they are made anew when that changes,
# as in "make && make install PREFIX=/usr".
SETTLED := $(patsubst %,$(BUILD)/%.o,agent/main agent/supervisor client/agent client/helper client/tool/main)
$(SETTLED): CPPFLAGS += $(SETTINGS)
$(SETTLED): $(BUILD)/settings
$(BUILD)/settings: always
	@mkdir -p $(@D)
	@echo "$(VERSION) $(PREFIX) $(SYSCONFDIR) $(LIBEXECDIR)" | cmp -s - $@ || \
	    echo "$(VERSION) $(PREFIX) $(SYSCONFDIR) $(LIBEXECDIR)" > $@
.PHONY: always

# The build id: every process of one agent must have the same.
$(BUILD)/build_id.c: $(sort $(wildcard protocol/*.[ch] sandbox/*.[ch] agent/*.[ch])) Makefile $(BUILD)/settings
	@mkdir -p $(@D)
	@id=$$(cat $(filter-out Makefile $(BUILD)/settings,$^) | sha256sum | cut -c1-16); \
	printf '#include "agent/roles.h"\nconst char role_build_id[] = "$(VERSION)-%s";\n' $$id > $@
$(BUILD)/build_id.o: $(BUILD)/build_id.c
	$(Q)$(COMPILE) -c $< -o $@

$(BUILD)/tlsagentd: $(BUILD)/agent/main.o $(AGENT) $(SANDBOX) $(PROTOCOL)
	$(Q)$(LINK) $^ -o $@ $(AGENT_LIBS)

# The library: protocol and sandbox code is inside it, invisible (client/libtlsagent.map).
$(BUILD)/libtlsagent.so.0: $(CLIENT) $(PROTOCOL) client/libtlsagent.map
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -shared -pthread -Wl,-soname,libtlsagent.so.0 -Wl,-z,relro,-z,now,-z,nodelete \
	    -Wl,--version-script=client/libtlsagent.map $(CLIENT) $(PROTOCOL) -o $@ $(CLIENT_LIBS)
	$(Q)ln -sf libtlsagent.so.0 $(BUILD)/libtlsagent.so
# One object with its inner names made local: they cannot clash with the application's.
$(BUILD)/libtlsagent.a: $(CLIENT) $(PROTOCOL)
	$(Q)rm -f $@
	$(Q)$(CC) -r -nostdlib $^ -o $(BUILD)/libtlsagent.o
	$(Q)objcopy --localize-hidden $(BUILD)/libtlsagent.o
	$(Q)$(AR) rcs $@ $(BUILD)/libtlsagent.o

# What the programs of the client side share with the library, with its inner names: whoever links
# it takes the objects that it needs.
$(BUILD)/libclient.a: $(CLIENT) $(SANDBOX) $(PROTOCOL)
	$(Q)rm -f $@
	$(Q)$(AR) rcsP $@ $^
$(BUILD)/tlsagent: $(TOOL) $(BUILD)/libclient.a
	$(Q)$(LINK) $^ -o $@ $(CLIENT_LIBS) -lseccomp
$(BUILD)/tlsagent-relay: $(BUILD)/client/relay/main.o $(RELAY) $(BUILD)/libclient.a
	$(Q)$(LINK) $^ -o $@ $(CLIENT_LIBS) -lseccomp
$(BUILD)/examples/https-server: $(patsubst %.c,$(BUILD)/%.o,$(wildcard client/examples/https/*.c))
$(BUILD)/examples/self-replacing-server: $(patsubst %.c,$(BUILD)/%.o,$(wildcard client/examples/self-replacing/*.c))
$(BUILD)/examples/%: $(BUILD)/client/examples/%.o $(BUILD)/libtlsagent.a
	@mkdir -p $(@D)
	$(Q)$(LINK) $^ -o $@ $(CLIENT_LIBS)

# Tests. Unit and hostile tests link everything but main().
TESTED := $(AGENT) $(CLIENT) $(RELAY) $(SANDBOX) $(PROTOCOL)
$(BUILD)/libtested.a: $(TESTED)
	$(Q)rm -f $@
	$(Q)$(AR) rcsP $@ $^
$(UNIT) $(HOSTILE): $(BUILD)/tests/%: $(BUILD)/tests/%.o $(BUILD)/libtested.a
	$(Q)$(LINK) $(WRAPPED) $^ -o $@ $(CHECK_LIBS) $(AGENT_LIBS)
# A kernel that the test plays.
SOCKET_CALLS := -Wl,--wrap=setsockopt,--wrap=getsockopt,--wrap=sendmsg,--wrap=recvmsg
$(BUILD)/tests/unit/test_kernel_tls: WRAPPED := $(SOCKET_CALLS) -Wl,--wrap=identity_context
# ... or the fuzz input (tests/fuzz/played_kernel.h).
$(patsubst %,$(BUILD)/tests/%,unit/test_corpus_kernel fuzz/fuzz_kernel fuzz/fuzz_move): WRAPPED := $(SOCKET_CALLS)
$(BUILD)/tests/unit/test_random: WRAPPED := -Wl,--wrap=getrandom
# The real sandbox; only these programs can leave layers out, to see what the others hold.
ATTACKS := $(addprefix $(BUILD)/tests/sandbox/test_,attacks layers filters)
WRAPPED_LAYERS := seccomp_enter landlock_enter namespace_enter privilege_bound privilege_lock privilege_become \
    privilege_drop hardening_no_new_code hardening_no_speculation setrlimit prctl
$(BUILD)/tests/sandbox/test_attacks $(BUILD)/tests/sandbox/test_layers: \
    $(patsubst %,$(BUILD)/tests/sandbox/%.o,attacks leave_out scene) $(SANDBOX) $(PROTOCOL)
$(BUILD)/tests/sandbox/test_attacks $(BUILD)/tests/sandbox/test_layers: LAYERS := $(patsubst %,-Wl$(,)--wrap=%,$(WRAPPED_LAYERS))
$(ATTACKS): $(BUILD)/tests/sandbox/%: $(BUILD)/tests/sandbox/%.o $(SANDBOX) $(PROTOCOL)
	$(Q)$(LINK) $(LAYERS) $^ -o $@ $(AGENT_LIBS)
# No sandbox at all, to measure what it costs.
OPEN := $(addprefix $(BUILD)/tests/,sandbox/tlsagentd-open sandbox/tlsagentd-short e2e/tlsagentd-clock)
$(BUILD)/tests/sandbox/tlsagentd-open: $(BUILD)/tests/sandbox/open_sandbox.o $(BUILD)/agent/main.o $(AGENT) $(SANDBOX) $(PROTOCOL)
	$(Q)$(LINK) -Wl,--wrap=sandbox_enter $^ -o $@ $(AGENT_LIBS)
# One system call fewer than the handshaker needs: the self-test must find it.
$(BUILD)/tests/sandbox/tlsagentd-short: $(BUILD)/tests/sandbox/short_policy.o $(BUILD)/agent/main.o $(AGENT) $(SANDBOX) $(PROTOCOL)
	$(Q)$(LINK) -Wl,--wrap=policy_find $^ -o $@ $(AGENT_LIBS)
# A clock that tests can set.
$(BUILD)/tests/e2e/tlsagentd-clock: $(BUILD)/tests/e2e/clock.o $(BUILD)/agent/main.o $(AGENT) $(SANDBOX) $(PROTOCOL)
	$(Q)$(LINK) $^ -o $@ $(AGENT_LIBS)
$(PEERS): $(BUILD)/tests/%: $(BUILD)/tests/%.o $(BUILD)/libtlsagent.a $(PROTOCOL)
	$(Q)$(LINK) $^ -o $@ -lssl $(CLIENT_LIBS)
$(BUILD)/tests/peers/https-server-stream: $(BUILD)/client/examples/https-server.o \
    $(patsubst %.c,$(BUILD)/%.o,$(wildcard client/examples/https/*.c))
$(BUILD)/tests/peers/worker-stream: $(BUILD)/tests/peers/worker.o
$(STREAMED): $(BUILD)/tests/lib/as_stream.o $(BUILD)/libclient.a
	$(Q)$(LINK) $(patsubst %,-Wl$(,)--wrap=tlsagent_%,handshake set_forms read write writev flush shutdown close) \
	    $(filter %.o,$^) $(filter %.a,$^) -o $@ $(CLIENT_LIBS)
# The agent without one of its pieces, to measure what the piece costs.
PIECES := $(BUILD)/tests/bench/tlsagentd-no-keeper $(BUILD)/tests/bench/tlsagentd-no-transfer
$(BUILD)/tests/bench/tlsagentd-no-keeper: $(BUILD)/tests/bench/parts/no_keeper.o $(BUILD)/agent/main.o $(AGENT) $(SANDBOX) $(PROTOCOL)
	$(Q)$(LINK) -Wl,--wrap=keycall_open,--wrap=keycall_serve,--wrap=keycall_sign_tls13,--wrap=selftest_run $^ -o $@ $(AGENT_LIBS)
$(BUILD)/tests/bench/parts/no_keeper.o: CPPFLAGS += -DBENCH_KEY='"$(abspath $(BUILD))/tests/bench/key.pem"'
$(BUILD)/tests/bench/tlsagentd-no-transfer: $(BUILD)/tests/bench/parts/no_transfer.o $(BUILD)/agent/main.o $(AGENT) $(SANDBOX) $(PROTOCOL)
	$(Q)$(LINK) -Wl,--wrap=workers_deliver $^ -o $@ $(AGENT_LIBS)
$(BENCH): $(BUILD)/tests/bench/%: $(BUILD)/tests/bench/%.o
	$(Q)$(LINK) $^ -o $@ -lssl -lcrypto
$(BUILD)/tests/vm/forms: $(FORMS) $(BUILD)/libtested.a
	$(Q)$(LINK) $^ -o $@ -lssl $(CLIENT_LIBS)

$(FUZZERS): $(BUILD)/tests/fuzz/%: $(BUILD)/tests/fuzz/%.o $(BUILD)/libtested.a
	$(Q)$(LINK) -fsanitize=fuzzer $(WRAPPED) $^ -o $@ $(CHECK_LIBS) $(AGENT_LIBS)

run:
	@contrib/debian/install-deps run
	@$(MAKE) --no-print-directory all
	@BUILD=$(BUILD) tests/demo.sh

check:
	@contrib/debian/install-deps check
	@$(MAKE) --no-print-directory all
	@BUILD=$(BUILD) tests/run.sh check

check-unit: all $(UNIT) $(HOSTILE) $(ATTACKS)
	@BUILD=$(BUILD) tests/run.sh unit hostile sandbox

check-e2e: all $(PEERS) $(STREAMED)
	@BUILD=$(BUILD) tests/run.sh e2e interop

check-asan:
	@contrib/debian/install-deps check
	@$(MAKE) --no-print-directory SAN=1 BUILD=$(BUILD)-asan all
	@BUILD=$(BUILD)-asan SANITIZED=1 tests/run.sh check

# Long: SOAK_MINUTES=10.
check-soak:
	@contrib/debian/install-deps check
	@BUILD=$(BUILD) tests/run.sh soak

# One after the other: some of them measure.
check-all:
	@$(MAKE) --no-print-directory check
	@$(MAKE) --no-print-directory check-asan
	@$(MAKE) --no-print-directory check-soak
	@$(MAKE) --no-print-directory fuzz
.PHONY: check-soak

# The peers come from Debian. Nothing else should run meanwhile; results are in tests/bench/results.
bench bench-quick:
	@contrib/debian/install-deps bench
	@$(MAKE) --no-print-directory all $(BENCH) $(PIECES) $(OPEN)
	@BUILD=$(BUILD) tests/bench/bench.py $(if $(filter bench-quick,$@),--quick --results $(BUILD)/bench) $(BENCH_OPTIONS)
.PHONY: bench bench-quick

# Each target in turn; what it finds new goes to $(BUILD)-fuzz/corpus, a crash to $(BUILD)-fuzz/crashes.
FUZZ_SECONDS ?= 60
fuzz fuzz-coverage:
	@contrib/debian/install-deps fuzz
	@BUILD=$(BUILD) FUZZ_SECONDS=$(FUZZ_SECONDS) tests/fuzz/run.sh $@
fuzz-programs: $(FUZZERS)
.PHONY: fuzz-coverage fuzz-programs

unit-programs: $(UNIT) $(HOSTILE) $(BUILD)/tlsagent-relay
test-programs: unit-programs $(PEERS) $(STREAMED) $(ATTACKS) $(OPEN) $(BUILD)/tests/vm/forms
.PHONY: unit-programs test-programs

lint:
	@contrib/debian/install-deps lint
	cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
	    -I. -D_GNU_SOURCE --suppress=missingIncludeSystem agent client protocol sandbox
	clang-tidy --quiet --warnings-as-errors='*' $(wildcard agent/*.c client/*.c client/relay/*.c client/tool/*.c client/examples/*.c client/examples/*/*.c protocol/*.c sandbox/*.c) \
	    -- -std=c11 $(CPPFLAGS) $(SETTINGS)
	clang-format --dry-run --Werror $$(git ls-files '*.[ch]')
	@tests/layering.sh

format:
	clang-format -i $$(git ls-files '*.[ch]')

install: all
	install -d $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig \
	    $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man3 \
	    $(DESTDIR)$(PREFIX)/share/man/man5 $(DESTDIR)$(PREFIX)/share/man/man8 $(DESTDIR)$(SYSCONFDIR)/tlsagent
	install -m 755 $(BUILD)/tlsagentd $(DESTDIR)$(PREFIX)/sbin/
	install -m 755 $(BUILD)/tlsagent $(DESTDIR)$(PREFIX)/bin/
	install -d $(DESTDIR)$(LIBEXECDIR)
	install -m 755 $(BUILD)/tlsagent-relay $(DESTDIR)$(LIBEXECDIR)/
	install -m 755 $(BUILD)/libtlsagent.so.0 $(DESTDIR)$(PREFIX)/lib/
	ln -sf libtlsagent.so.0 $(DESTDIR)$(PREFIX)/lib/libtlsagent.so
	install -m 644 $(BUILD)/libtlsagent.a $(DESTDIR)$(PREFIX)/lib/
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' client/tlsagent.pc.in > $(BUILD)/tlsagent.pc
	install -m 644 $(BUILD)/tlsagent.pc $(DESTDIR)$(PREFIX)/lib/pkgconfig/
	install -m 644 client/tlsagent.h $(DESTDIR)$(PREFIX)/include/
	install -m 644 client/tool/tlsagent.1 $(DESTDIR)$(PREFIX)/share/man/man1/
	install -m 644 client/libtlsagent.3 $(DESTDIR)$(PREFIX)/share/man/man3/
	install -m 644 agent/tlsagentd.conf.5 $(DESTDIR)$(PREFIX)/share/man/man5/
	install -m 644 agent/tlsagentd.8 $(DESTDIR)$(PREFIX)/share/man/man8/
	@# The loader finds libtlsagent.so.0 from now on; a package does this itself.
	if [ -z "$(DESTDIR)" ] && [ "$$(id -u)" -eq 0 ]; then $(LDCONFIG); fi

clean:
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-fuzz $(BUILD)-coverage

help:
	@echo 'make              build with hardening flags'
	@echo 'make run          everything on a fresh machine: install, build, demo identity, agent, HTTPS server'
	@echo 'make check        everything on a fresh machine: install, build, all tests (minutes)'
	@echo 'make check-asan   the same tests under AddressSanitizer and UBSan'
	@echo 'make check-soak   load for SOAK_MINUTES=10 while cells are killed'
	@echo 'make check-all    check, check-asan, check-soak and fuzz'
	@echo 'make bench        against nginx, haproxy, hitch and stunnel (minutes); results in tests/bench/results'
	@echo 'make bench-quick  the same in short; results in $(BUILD)/bench'
	@echo 'make fuzz         each fuzz target for a minute (FUZZ_SECONDS=60); fuzz-coverage: what the corpora reach'
	@echo 'make lint         clang-tidy, cppcheck, clang-format, layering'
	@echo 'make format       clang-format in place'
	@echo 'make install      DESTDIR= PREFIX=$(PREFIX)'

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
