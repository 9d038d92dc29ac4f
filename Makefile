# make build | install | test | test-long | test-vm | demo | test-lab | planted-bugs | bench | scale | fuzz | clean-lab. Details: docs/testing.md.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.PHONY: build install test test-long test-lab test-vm planted-bugs demo bench scale fuzz clean-lab needs-build needs-test needs-vm lint deny

HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
BINARY := $(TARGET_DIR)/release/safe-upgrade
DENY_VERSION := 0.20.2
DENY := $(TARGET_DIR)/tools/bin/cargo-deny
FUZZ_VERSION := 0.13.2
FUZZ := $(TARGET_DIR)/tools/bin/cargo-fuzz
FUZZ_SECONDS ?= 60

BUILD_PACKAGES := gcc pkg-config libc6-dev libclang-dev libbtrfsutil-dev
TEST_PACKAGES := mmdebstrap systemd-container btrfs-progs rsync iproute2 mount util-linux acl attr \
    restic borgbackup rclone openssh-client openssh-server b3sum mtree-netbsd zstd lz4 bzip2 xz-utils \
    grub-common grub-pc-bin grub-efi-amd64-bin cpio busybox e2fsprogs
VM_PACKAGES := qemu-system-x86 qemu-utils ovmf gdisk dosfstools mtools e2fsprogs util-linux dpkg
VM_TESTS ?= vm_

# Installs what is missing when it may; otherwise the build or the test says what it lacks.
define install
missing=(); for package in $(1); do dpkg -s "$$package" >/dev/null 2>&1 || missing+=("$$package"); done; \
if [ $${#missing[@]} -gt 0 ] && [ "$$(id -u)" = 0 ]; then \
    apt-get -q update; DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends "$${missing[@]}"; \
elif [ $${#missing[@]} -gt 0 ]; then echo "skipped: not root, so these are not installed: $${missing[*]}"; fi
endef

# The upgrade replaces shared libraries under the running program: the binary must not need any.
build: needs-build
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --bin safe-upgrade --target $(HOST)
	@install -D -m 755 $(TARGET_DIR)/$(HOST)/release/safe-upgrade $(BINARY)
	@if ldd $(BINARY) 2>/dev/null | grep '=>'; then echo "$(BINARY) needs shared libraries" >&2; exit 1; fi
	@echo "$(BINARY): static, $$(du -h $(BINARY) | cut -f1)"

PREFIX ?= /usr/local
UNITS := safe-upgrade-verify.service safe-upgrade-verify.timer

# The program, its man pages, and the units of unattended verification (not enabled). DESTDIR is for packagers.
install: build
	install -D -m 755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/safe-upgrade
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/lib/systemd/system
	$(BINARY) man $(DESTDIR)$(PREFIX)/share/man/man1
	for unit in $(UNITS); do sed 's|/usr/bin/safe-upgrade|$(PREFIX)/bin/safe-upgrade|' packaging/$$unit \
	    > $(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit; done

# Containers come last, two at a time; every test that lacks root or a tool says "skipped: ...".
test: build needs-test lint deny
	cargo test --locked --lib --bins --tests -- --skip container_
	cargo test --locked --doc
	SAFE_UPGRADE_LAB_BINARY=$(abspath $(BINARY)) cargo test --locked --test container -- container_ --test-threads=2 --nocapture

# What takes too long for each time.
test-long: build needs-test
	SAFE_UPGRADE_LAB_BINARY=$(abspath $(BINARY)) cargo test --locked --test container -- long_ --ignored --test-threads=2 --nocapture

# The lab proves itself with a plain upgrade: needed only when the lab changes.
test-lab: needs-build needs-test
	cargo test --locked --test lab_itself -- --include-ignored --test-threads=1 --nocapture

# Real boot loaders under emulation, one machine at a time: hours for all of it. VM_TESTS=vm_uefi_ takes those with this in their name.
test-vm: build needs-test needs-vm
	SAFE_UPGRADE_LAB_BINARY=$(abspath $(BINARY)) cargo test --locked --test vm -- --ignored --test-threads=1 --nocapture $(VM_TESTS)
	cargo test --locked --test vm -- --ignored --exact --nocapture write_the_table

# Puts known bugs into a copy of the source, one at a time, and wants each of them caught.
planted-bugs: needs-build
	cargo test --locked --test planted -- --ignored --nocapture

demo: build needs-test
	SAFE_UPGRADE_LAB_BINARY=$(abspath $(BINARY)) cargo run --locked --quiet --example demo

bench: needs-build
	cargo bench --locked

# Ten million entries in 64 MiB: about half an hour, 16 GiB of sparse file, root.
scale: build needs-test
	SAFE_UPGRADE_LAB_BINARY=$(abspath $(BINARY)) cargo test --locked --test scale -- --ignored --nocapture

# Runs each target for FUZZ_SECONDS, without a sanitizer, so that a stable toolchain will do. What is found on the way stays in
# fuzz/corpus, which git does not keep; fuzz/seeds it does.
fuzz: needs-build $(FUZZ)
	for target in $$($(FUZZ) list); do mkdir -p "fuzz/corpus/$$target"; \
	    $(FUZZ) run -s none "$$target" "fuzz/corpus/$$target" "fuzz/seeds/$$target" -- -max_total_time=$(FUZZ_SECONDS); done

$(FUZZ):
	cargo install --locked --quiet --debug cargo-fuzz --version $(FUZZ_VERSION) --root $(TARGET_DIR)/tools

clean-lab:
	rm -rf --one-file-system $(TARGET_DIR)/lab

needs-build:
	@$(call install,$(BUILD_PACKAGES))

needs-test:
	@$(call install,$(TEST_PACKAGES))

needs-vm:
	@$(call install,$(VM_PACKAGES))

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

deny: $(DENY)
	$(DENY) --log-level error check bans licenses sources
	@if $(DENY) fetch db >/dev/null 2>&1; then $(DENY) --log-level error check advisories; \
	else echo "skipped: the advisory database is not reachable"; fi

# Not optimized: building these tools takes longer than all that they do here.
$(DENY):
	cargo install --locked --quiet --debug cargo-deny --version $(DENY_VERSION) --root $(TARGET_DIR)/tools
