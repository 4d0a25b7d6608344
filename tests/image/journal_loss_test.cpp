// A journal on a disk that loses what no sync covered, and what a failed sync should have covered.

#include <unistd.h>

#include <catch2/catch.hpp>
#include <random>

#include "base/error.h"
#include "image/journal_bench.h"
#include "image/journal_segment.h"
#include "image/lossy_disk.h"
#include "support/bytes.h"
#include "support/error_kind.h"

namespace isr {
namespace {

using test::append_data;
using test::device_key;
using test::kind_thrown;
using test::LossyDisk;
using test::OpenedJournal;

/// Offsets of all records, in order; the bytes of each are those of its offset.
std::vector<std::uint64_t> offsets_of(const OpenedJournal& opened) {
  std::vector<std::uint64_t> offsets;
  for (const auto& record : opened.records) {
    CHECK((record.payload == test::random_bytes(record.payload.size(), record.offset)));
    offsets.push_back(record.offset);
  }
  return offsets;
}

void append_numbered(Journal& journal, std::uint64_t number, std::size_t size = 3000) {
  append_data(journal, number, test::random_bytes(size, number));
}

struct DiskOfJournal {
  TempDirectory temp;
  fs::path directory = temp.path() / "j";
  LossyDisk disk{[this] {
    make_private_directory(directory);
    return directory;
  }()};

  /// The kernel may write a page at any time.
  void write_mark_back() const {
    const auto mark = open_if_exists(directory / "synced", O_RDWR);
    if (mark) ::fdatasync(mark->get());
  }
};

}  // namespace

TEST_CASE("opening the journal writes again the data that a failed sync lost", "[image]") {
  DiskOfJournal on;
  const bool has_synced_before = GENERATE(false, true);
  {
    OpenedJournal opened(on.directory, device_key());
    append_numbered(*opened.journal, 1);
    if (has_synced_before) opened.journal->sync();
    append_numbered(*opened.journal, 2);
    if (GENERATE(false, true)) opened.journal->roll();
    append_numbered(*opened.journal, 3);
    on.disk.fail_syncs(2);
    CHECK(kind_thrown([&] { opened.journal->sync(); }) == ErrorKind::kIo);
  }
  on.disk.fail_syncs(0);
  {
    OpenedJournal again(on.directory, device_key());  // all of it is in the page cache still
    CHECK(offsets_of(again) == std::vector<std::uint64_t>{1, 2, 3});
    append_numbered(*again.journal, 4);
    again.journal->sync();
    append_numbered(*again.journal, 5);
  }
  on.disk.cut_power();
  CHECK(offsets_of(OpenedJournal(on.directory, device_key())) == std::vector<std::uint64_t>{1, 2, 3, 4});
}

TEST_CASE("a sync after a failed one makes the lost data durable", "[image]") {
  DiskOfJournal on;
  {
    OpenedJournal opened(on.directory, device_key());
    append_numbered(*opened.journal, 1);
    opened.journal->sync();
    append_numbered(*opened.journal, 2);
    on.disk.fail_syncs(2);
    CHECK(kind_thrown([&] { opened.journal->sync(); }) == ErrorKind::kIo);
    append_numbered(*opened.journal, 3);
    if (GENERATE(false, true)) opened.journal->roll();
    append_numbered(*opened.journal, 4);
    CHECK(kind_thrown([&] { opened.journal->sync(); }) == ErrorKind::kIo);
    opened.journal->sync();
  }
  on.disk.cut_power();
  CHECK(offsets_of(OpenedJournal(on.directory, device_key())) == std::vector<std::uint64_t>{1, 2, 3, 4});
}

TEST_CASE("a sync fails as long as the data that an earlier one lost cannot be read", "[image]") {
  DiskOfJournal on;
  {
    OpenedJournal opened(on.directory, device_key());
    append_numbered(*opened.journal, 1);
    opened.journal->sync();
    append_numbered(*opened.journal, 2);
    on.disk.fail_syncs(1);
    CHECK(kind_thrown([&] { opened.journal->sync(); }) == ErrorKind::kIo);
    // The kernel dropped the page, and read it from the disk again.
    test::flip_byte(test::segments_of(on.directory).at(0), kSegmentHeaderSize + record_size(3000) + 100);
    for (int i = 0; i < 2; ++i) CHECK(kind_thrown([&] { opened.journal->sync(); }) == ErrorKind::kIo);
  }
  OpenedJournal again(on.directory, device_key());
  CHECK(offsets_of(again) == std::vector<std::uint64_t>{1});
  append_numbered(*again.journal, 3);
  again.journal->sync();
  again.journal.reset();
  on.disk.cut_power();
  CHECK(offsets_of(OpenedJournal(on.directory, device_key())) == std::vector<std::uint64_t>{1, 3});
}

TEST_CASE("a journal can be opened later when its first opening could not be synced", "[image]") {
  DiskOfJournal on;
  {
    OpenedJournal opened(on.directory, device_key());
    append_numbered(*opened.journal, 1);
    opened.journal->roll();
    append_numbered(*opened.journal, 2);
  }
  for (int i = 0; i < 2; ++i) {
    on.disk.fail_syncs(1);
    CHECK(kind_thrown([&] { OpenedJournal(on.directory, device_key()); }) == ErrorKind::kIo);
  }
  OpenedJournal(on.directory, device_key());
  on.disk.cut_power();
  CHECK(offsets_of(OpenedJournal(on.directory, device_key())) == std::vector<std::uint64_t>{1, 2});
}

TEST_CASE("a mark does not cover records that are appended during its sync", "[image]") {
  DiskOfJournal on;
  {
    OpenedJournal opened(on.directory, device_key(), 1);
    append_numbered(*opened.journal, 1);
    on.disk.during_next_sync([&] { append_numbered(*opened.journal, 2); });
    opened.journal->sync();
  }
  on.write_mark_back();
  on.disk.cut_power();
  CHECK(offsets_of(OpenedJournal(on.directory, device_key())) == std::vector<std::uint64_t>{1});
}

TEST_CASE("random writes, failed syncs, restarts and power cuts lose nothing that a sync covered", "[image]") {
  const auto seed = GENERATE(range(1U, 121U));
  INFO("seed " << seed);
  std::mt19937 random(seed);
  const auto chance = [&](unsigned percent) { return random() % 100 < percent; };
  DiskOfJournal on;
  std::vector<std::uint64_t> written;  // all that the journal has, as far as its writer knows
  std::size_t durable = 0;             // so many of them a sync covered
  std::uint64_t number = 0;
  for (int life = 0; life < 12; ++life) {
    std::unique_ptr<OpenedJournal> opened;
    while (!opened) {
      on.disk.fail_syncs(chance(20) ? 1 : 0);
      try {
        opened = std::make_unique<OpenedJournal>(on.directory, device_key(), chance(50) ? 1 : 20'000);
      } catch (const Error& error) {
        REQUIRE(error.kind() == ErrorKind::kIo);
      }
    }
    const auto found = offsets_of(*opened);
    REQUIRE(found.size() >= durable);
    REQUIRE(found.size() <= written.size());
    REQUIRE(std::equal(found.begin(), found.end(), written.begin()));
    written = found;
    durable = found.size();  // an opened journal is durable
    for (auto step = random() % 40; step > 0; --step) {
      if (chance(70)) {
        append_numbered(*opened->journal, ++number, 1 + random() % 9000);
        written.push_back(number);
      } else if (chance(30)) {
        opened->journal->roll();
      } else if (chance(20)) {
        on.write_mark_back();
      } else if (chance(20)) {
        opened->journal->raise_sequence(opened->journal->next_sequence() + random() % 4);
      } else {
        on.disk.fail_syncs(chance(40) ? 1 : 0);
        try {
          opened->journal->sync();
          durable = written.size();
        } catch (const Error& error) {
          REQUIRE(error.kind() == ErrorKind::kIo);
        }
      }
    }
    on.disk.fail_syncs(0);
    opened.reset();
    if (chance(30)) on.write_mark_back();
    if (chance(50)) on.disk.cut_power();
  }
}

}  // namespace isr
