#include "session/memory_image.h"

#include <catch2/catch.hpp>

#include "support/error_kind.h"
#include "support/session_parts.h"

using namespace isr;

namespace {

struct Place : test::CheckedOut {
  test::SessionParts parts{*this};
  MemoryImage& memory = parts.memory;
  Bytes contents = test::random_bytes(2 * kChunkSize, 2);
  MachineMoment moment{test::some_stamp(), test::random_bytes(5000, 3), {}};

  SessionPhase phase() const { return parts.state.now().phase; }
  Bytes kept() { return test::read_image(*parts.images.image("memory"), contents.size()); }
  void run(bool fresh) {
    const auto image = memory.begin(fresh);
    if (fresh) image->write(0, contents);
    memory.begin_run(fresh);
  }
  void suspend() {
    run(true);
    memory.keep(moment);
    memory.abandon();
  }
};

}  // namespace

TEST_CASE("begin() makes memory apart from the suspended memory, and abandon() drops it", "[session]") {
  Place place;
  CHECK(place.memory.image() == nullptr);
  CHECK(place.memory.live() == nullptr);
  CHECK_FALSE(place.memory.changed_chunks().has_value());
  place.memory.begin(true)->write(0, place.contents);
  CHECK(place.memory.changed_chunks() == 2);
  CHECK((place.kept() == Bytes(place.contents.size())));
  CHECK(place.phase() == SessionPhase::kCheckedOut);
  place.memory.abandon();
  CHECK(place.memory.image() == nullptr);
  CHECK_FALSE(place.memory.changed_chunks().has_value());
}

TEST_CASE("chunks that an earlier run changed count as changed when no version has them", "[session]") {
  Place place;
  place.suspend();
  const auto image = place.memory.begin(false);
  place.memory.begin_run(false);
  CHECK(place.memory.changed_chunks() == 2);
  image->write(0, test::random_bytes(4096, 9));
  CHECK(place.memory.changed_chunks() == 2);
  image->write(5 * kChunkSize, test::random_bytes(4096, 9));
  CHECK(place.memory.changed_chunks() == 3);
  place.memory.abandon();
}

TEST_CASE("abandon() and drop() release the memory image", "[session]") {
  Place place;
  place.run(true);
  const std::weak_ptr<Image> image = place.memory.image();
  CHECK_FALSE(image.expired());
  SECTION("abandoned") {
    place.parts.prefetch.begin_fill(Prefetch::kAll);
    place.memory.abandon();
  }
  SECTION("dropped") { place.memory.drop(); }
  CHECK(image.expired());
}

TEST_CASE("the steps for a version of the running machine fail as a bug when no machine runs", "[session]") {
  Place place;
  CHECK((test::kind_thrown([&] { place.memory.freeze(); }) == ErrorKind::kBug));
  CHECK((test::kind_thrown([&] { place.memory.frozen(); }) == ErrorKind::kBug));
  const TreeRoot root{place.parts.state.now().vm.memory_bytes, {}};
  CHECK((test::kind_thrown([&] { place.memory.check_frozen({}, root, {}); }) == ErrorKind::kBug));
  place.memory.thaw();
}

TEST_CASE("undo_run() brings back the suspended phase and memory, or the phase checkedout when memory was fresh",
          "[session]") {
  Place place;
  place.suspend();
  const bool fresh = GENERATE(true, false);
  CAPTURE(fresh);
  place.memory.begin(fresh);
  place.memory.begin_run(fresh);
  CHECK(place.phase() == SessionPhase::kRunning);
  place.memory.undo_run(fresh);
  place.memory.abandon();
  CHECK(place.phase() == (fresh ? SessionPhase::kCheckedOut : SessionPhase::kSuspended));
  CHECK(place.written().phase == place.phase());
  CHECK((place.kept() == (fresh ? Bytes(place.contents.size()) : place.contents)));
}

TEST_CASE("undo_run() changes the phase in memory when the state file cannot be written", "[session]") {
  Place place;
  place.run(true);
  {
    const test::UnwritableState unwritable(place);
    place.memory.undo_run(true);
    CHECK(place.phase() == SessionPhase::kCheckedOut);
  }
  CHECK(place.written().phase == SessionPhase::kRunning);
}

TEST_CASE("keep() succeeds after a refusal when the witness agrees", "[session]") {
  Place place;
  place.run(true);
  Bytes page(place.contents.begin(), place.contents.begin() + kPageSize);
  page[17] ^= 1;
  place.moment.memory.sample.push_back({0, page});
  CHECK((test::kind_thrown([&] { place.memory.keep(place.moment); }) == ErrorKind::kBug));
  CHECK(place.phase() == SessionPhase::kRunning);
  CHECK(place.written().phase == SessionPhase::kRunning);
  CHECK((test::read_image(*place.memory.image(), place.contents.size()) == place.contents));
  place.moment.memory.sample[0].bytes[17] ^= 1;
  place.memory.keep(place.moment);
  place.memory.abandon();
  CHECK(place.phase() == SessionPhase::kSuspended);
  CHECK((place.kept() == place.contents));
  CHECK((place.memory.device_state() == place.moment.device_state));
}

TEST_CASE("drop() forgets the memory of a running machine when the state file cannot be written", "[session]") {
  Place place;
  place.suspend();
  place.run(false);
  {
    const test::UnwritableState unwritable(place);
    CHECK_THROWS(place.memory.drop());
  }
  CHECK(place.phase() == SessionPhase::kCheckedOut);
  CHECK(place.memory.image() == nullptr);
  CHECK((place.kept() == Bytes(place.contents.size())));
  CHECK(place.written().phase == SessionPhase::kRunning);  // counts as a crash, so the next open drops the memory, too
  place.memory.drop();
  CHECK(place.written().phase == SessionPhase::kCheckedOut);
}

TEST_CASE("require_room() fails and names the free space when the disk has too little", "[session]") {
  Place place;
  place.memory.require_room(1);
  try {
    place.memory.require_room(std::uint64_t{1} << 60U);
    FAIL("not refused");
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kIo);
    CHECK_THAT(error.what(), Catch::Contains("MiB free, and the memory of work may need"));
  }
}

TEST_CASE("adopt() calls adopt_below when a machine runs and when none runs", "[session]") {
  Place place;
  bool has_adopted = false;
  const auto adopt_below = [&] { has_adopted = true; };
  const ChunkRef published = place.parts.state.now().find("disk")->image.content.tree.root;
  const TreeRoot root{place.parts.state.now().vm.memory_bytes, published};
  SECTION("a machine runs, and its memory image gets the new base") {
    place.run(true);
    place.memory.adopt(root, adopt_below);
    CHECK((place.memory.image()->base().tree.root == published));
  }
  SECTION("no machine runs") { place.memory.adopt(root, adopt_below); }
  CHECK(has_adopted);
}
