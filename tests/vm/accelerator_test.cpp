#include "vm/accelerator.h"

#include <catch2/catch.hpp>

#include "base/file.h"
#include "base/whole_file.h"
#include "support/error_kind.h"
#include "vm/kvm_probe.h"

using namespace isr;
using test::kind_thrown;

TEST_CASE("the probe guest accepts a working accelerator", "[vm]") {
  // TCG works everywhere, so the probe itself is right.
  const auto result = run_probe_guest("tcg", "qemu-system-x86_64", {});
  CHECK(result.works);
  CHECK(result.reason == "a probe guest ran");
  CHECK_FALSE(run_probe_guest("no-such", "qemu-system-x86_64", {}).works);
}

TEST_CASE("an accelerator is chosen with a reason, and the choice is kept", "[vm]") {
  TempDirectory directory;
  const auto cache = directory.path() / "cache";
  const auto first = choose_accelerator(AcceleratorChoice::kAuto, cache);
  CHECK((first.name == "kvm" || first.name == "tcg"));
  CHECK_FALSE(first.reason.empty());
  const auto again = choose_accelerator(AcceleratorChoice::kAuto, cache);
  CHECK(again.name == first.name);
  CHECK(again.reason == first.reason);
  CHECK((choose_accelerator(AcceleratorChoice::kTcg, cache).name == "tcg"));
  if (first.name == "tcg")
    CHECK((kind_thrown([&] { choose_accelerator(AcceleratorChoice::kKvm, cache); }) == ErrorKind::kVm));
}

TEST_CASE("a damaged or old probe result is ignored", "[vm]") {
  TempDirectory directory;
  const auto fresh = choose_accelerator(AcceleratorChoice::kAuto, directory.path());
  for (const char* text : {"", "\n\n\n", "isr-kvm-probe 1 boot of another day\nworks\nit did\n", "\xff\xff"}) {
    replace_file(directory.path() / "kvm-probe", as_bytes(text));
    CHECK(choose_accelerator(AcceleratorChoice::kAuto, directory.path()).name == fresh.name);
  }
}

TEST_CASE("an accelerator's name is one of three", "[vm]") {
  CHECK((parse_accelerator_choice("kvm") == AcceleratorChoice::kKvm));
  CHECK((kind_thrown([] { parse_accelerator_choice("xen"); }) == ErrorKind::kUsage));
}

TEST_CASE("a stamp shows whether QEMU has the machine", "[vm]") {
  VmSettings s;
  const Accelerator tcg{"tcg", ""};
  CHECK(stamp_here(s, tcg).machine == s.machine);
  s.machine = "pc-q35-99.9";
  CHECK(stamp_here(s, tcg).machine.empty());
  CHECK((kind_thrown([&] { stamp_here(s, tcg, "/nonexistent"); }) == ErrorKind::kVm));
}
