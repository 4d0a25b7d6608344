#include "vm/vm_events.h"

#include <catch2/catch.hpp>

namespace isr {
namespace {

VmFacts facts_of(std::initializer_list<QmpEvent> events) {
  VmFacts facts;
  for (const QmpEvent& event : events) facts.take_in(event);
  return facts;
}

constexpr int kExitedWith1 = 1 << 8;

}  // namespace

TEST_CASE("the end of a QEMU is reported as the request or the guest's action that caused it", "[vm]") {
  const QmpEvent by_guest{"SHUTDOWN", R"({"guest":true,"reason":"guest-shutdown"})"};
  const QmpEvent by_host{"SHUTDOWN", R"({"guest":false,"reason":"host-qmp-quit"})"};
  CHECK(facts_of({by_guest}).end(0, "").reason == VmExit::Reason::kGuestShutdown);
  VmFacts quit = facts_of({by_host});
  quit.quit_asked = true;
  CHECK(quit.end(0, "").reason == VmExit::Reason::kQuit);
  VmFacts killed = facts_of({by_guest});
  killed.kill_asked = true;
  CHECK(killed.end(9, "").reason == VmExit::Reason::kKilled);
}

TEST_CASE("a QEMU that ends without a request has died, even with status 0, and its last words give the reason",
          "[vm]") {
  VmFacts facts;
  const VmExit how = facts.end(kExitedWith1, "cannot allocate memory");
  CHECK(how.reason == VmExit::Reason::kDied);
  CHECK(how.detail.ends_with(": cannot allocate memory"));
  CHECK((facts.exiting && facts.exit && facts.exit->detail == how.detail));
  CHECK(VmFacts().end(0, "").reason == VmExit::Reason::kDied);
  CHECK(facts_of({{"SHUTDOWN", R"({"reason":"guest-shutdown"})"}}).end(kExitedWith1, "").reason ==
        VmExit::Reason::kDied);
}

TEST_CASE("a panic and a failed disk are reported once, and a restart of the guest makes a panic new", "[vm]") {
  VmFacts facts;
  const QmpEvent panic{"GUEST_PANICKED", R"({"action":"pause"})"};
  CHECK(facts.take_in(panic)->kind == VmEventKind::kGuestPanicked);
  CHECK_FALSE(facts.take_in(panic));
  CHECK(facts.take_in({"RESET", R"({"reason":"guest-reset"})"})->kind == VmEventKind::kReset);
  CHECK(facts.take_in(panic));
  const QmpEvent failed{"BLOCK_IO_ERROR",
                        R"({"action":"stop","operation":"write","node-name":"disk","reason":"No space"})"};
  CHECK(facts.take_in(failed)->detail == "write of disk failed: No space");
  CHECK_FALSE(facts.take_in(failed));
  CHECK_FALSE(VmFacts().take_in({"BLOCK_IO_ERROR", R"({"action":"report","operation":"write"})"}));
}

TEST_CASE("events without news about the machine are not reported", "[vm]") {
  VmFacts facts;
  CHECK_FALSE(facts.take_in({"MIGRATION", R"({"status":"completed"})"}));
  CHECK(facts.migration == "completed");
  CHECK_FALSE(facts.take_in({"NIC_RX_FILTER_CHANGED", "{}"}));
  CHECK_FALSE(facts.take_in({"SHUTDOWN", R"({"reason":7})"}));
  CHECK(facts.shutdown_reason.empty());
}

}  // namespace isr
