#include "session/session_images.h"

#include <catch2/catch.hpp>

#include "support/error_kind.h"
#include "support/session_parts.h"

using namespace isr;

TEST_CASE("take() changes nothing and names the parcel when the table refuses the event", "[session]") {
  test::CheckedOut place;
  test::SessionParts parts(place);
  SessionState next = parts.state.now();
  try {
    parts.images.take(SessionEvent::kSuspend, next);
    FAIL("not refused");
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kVm);
    CHECK(error.what() == std::string("work is not running"));
  }
  CHECK(next.phase == SessionPhase::kCheckedOut);
}

TEST_CASE("take() makes memory void in the next state, but not in publishes without an answer", "[session]") {
  test::CheckedOut place;
  test::SessionParts parts(place);
  parts.images.part("device").image->write(0, test::random_bytes(512, 3));
  SessionState next = parts.state.now();
  next.phase = SessionPhase::kSuspended;
  next.stamp = test::some_stamp();
  const auto number = [&](std::string_view name) { return next.find(name)->number; };
  next.pending.push_back({2, {}, {{number("disk"), 1}, {number("memory"), 1}, {number("device"), 1}}});
  parts.images.take(SessionEvent::kStart, next);
  CHECK(next.phase == SessionPhase::kRunning);
  CHECK_FALSE(next.stamp.has_value());
  CHECK(next.find("device")->void_below > parts.state.now().find("device")->void_below);
  CHECK(next.find("disk")->void_below == parts.state.now().find("disk")->void_below);
  CHECK(next.pending[0].void_below == std::map<std::uint16_t, std::uint64_t>{{number("disk"), 1}});
  CHECK(parts.images.is_dirty());  // an image drops its changes only once the state is `next`
  parts.state.change([&](SessionState& state) { state = next; });
  parts.images.begin_anew(parts.images.part("device"));
  CHECK_FALSE(parts.images.is_dirty());
}

TEST_CASE("disk_writes() counts each write and discard of a disk, and none of memory", "[session]") {
  test::CheckedOut place;
  test::SessionParts parts(place);
  std::uint64_t last = parts.images.disk_writes();
  const auto has_changed = [&] {
    const std::uint64_t before = std::exchange(last, parts.images.disk_writes());
    return before != last;
  };
  const auto disk = parts.images.image("disk");
  disk->write(0, Bytes(1));
  CHECK(has_changed());
  disk->discard(0, kChunkSize);
  CHECK(has_changed());
  parts.images.image("memory")->write(0, Bytes(1));
  CHECK_FALSE(has_changed());
  CHECK((test::kind_thrown([&] { parts.images.image("tape"); }) == ErrorKind::kBug));
}
