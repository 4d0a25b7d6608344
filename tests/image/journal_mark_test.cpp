#include "image/journal_mark.h"

#include <sys/stat.h>

#include <catch2/catch.hpp>

#include "base/error.h"
#include "base/whole_file.h"
#include "image/journal_bench.h"
#include "support/bytes.h"
#include "support/error_kind.h"

namespace isr {
namespace {

using test::append_data;
using test::device_key;
using test::kind_thrown;
using test::OpenedJournal;
using test::segments_of;

/// A segment that is copied is another file afterwards.
std::vector<ino_t> files_of(const fs::path& directory) {
  std::vector<ino_t> files;
  for (const fs::path& segment : segments_of(directory)) {
    struct stat status {};
    REQUIRE(::stat(segment.c_str(), &status) == 0);
    files.push_back(status.st_ino);
  }
  return files;
}

constexpr std::uint64_t kMark = 10'000;

/// A journal of three segments of one record each, synced once, at the end: no record calls anything synced.
void make_journal(const fs::path& directory, std::uint64_t mark_after = kMark) {
  OpenedJournal opened(directory, device_key(), mark_after);
  for (std::uint64_t i = 0; i < 3; ++i) {
    opened.journal->roll();
    append_data(*opened.journal, i, test::random_bytes(5000, static_cast<unsigned>(i)));
  }
  opened.journal->sync();
}

struct MarkBench {
  TempDirectory temp;
  fs::path directory = temp.path() / "j";
  fs::path mark = directory / "synced";

  std::size_t copied_by_start() {
    const auto before = files_of(directory);
    CHECK(OpenedJournal(directory, device_key(), kMark).records.size() == 3);
    const auto after = files_of(directory);
    REQUIRE(before.size() == after.size());
    std::size_t copied = 0;
    for (std::size_t i = 0; i < before.size(); ++i) copied += before[i] != after[i] ? 1 : 0;
    return copied;
  }
};

}  // namespace

TEST_CASE("a start copies no data that a large sync covered", "[image]") {
  MarkBench on;
  make_journal(on.directory);
  CHECK(on.copied_by_start() == 0);
}

TEST_CASE("a start copies data that a small sync covered, but the next start does not", "[image]") {
  MarkBench on;
  make_journal(on.directory, kMarkAfter);
  CHECK_FALSE(fs::exists(on.mark));
  CHECK(on.copied_by_start() == 3);
  CHECK(on.copied_by_start() == 0);
}

TEST_CASE("a start copies the segment that was written to after the mark", "[image]") {
  MarkBench on;
  make_journal(on.directory);
  const auto before = files_of(on.directory);
  {
    OpenedJournal opened(on.directory, device_key(), kMark);
    append_data(*opened.journal, 3, test::random_bytes(100, 3));
  }
  CHECK(OpenedJournal(on.directory, device_key(), kMark).records.size() == 4);
  const auto after = files_of(on.directory);
  REQUIRE(after.size() == 4);
  CHECK(std::equal(before.begin(), before.end(), after.begin()));
}

TEST_CASE("a mark that is damaged, cut off, of another format or of another journal is ignored", "[image]") {
  MarkBench on;
  make_journal(on.directory);
  const Bytes whole = read_file(on.mark, 1000);
  REQUIRE(whole.size() == 76);
  SECTION("one byte differs") {
    for (std::size_t i = 0; i < whole.size(); i += 5) {
      replace_file(on.mark, whole);
      test::flip_byte(on.mark, i);
      const fs::path copy = on.temp.path() / "copy";
      test::copy_directory(on.directory, copy);
      OpenedJournal(copy, device_key());
      INFO("byte " << i);
      CHECK(read_file(copy / "synced", 1000) != read_file(on.mark, 1000));  // the start wrote one of its own
    }
  }
  SECTION("it is shorter or longer") {
    Bytes other = whole;
    other.resize(GENERATE(0, 1, 40, 75, 77, 5000));
    replace_file(on.mark, other);
    CHECK(on.copied_by_start() == 3);
    CHECK(on.copied_by_start() == 0);
  }
  SECTION("it is of another journal") {
    make_journal(on.temp.path() / "other");
    fs::remove(on.mark);
    fs::copy_file(on.temp.path() / "other/synced", on.mark);
    CHECK(on.copied_by_start() == 3);
  }
  SECTION("it is not a file") {
    fs::remove(on.mark);
    fs::create_directory(on.mark);
    CHECK(on.copied_by_start() == 3);
    CHECK(on.copied_by_start() == 3);
  }
}

TEST_CASE("unreadable records that only the mark calls synced are damage", "[image]") {
  MarkBench on;
  make_journal(on.directory);
  test::flip_byte(segments_of(on.directory).at(GENERATE(0, 2)), kSegmentHeaderSize + 100);
  CHECK(kind_thrown([&] { OpenedJournal(on.directory, device_key()); }) == ErrorKind::kCorrupt);
}

TEST_CASE("skipped numbers are not marked, so a later record with one of them may be torn", "[image]") {
  MarkBench on;
  make_journal(on.directory, kMarkAfter);
  {
    OpenedJournal opened(on.directory, device_key(), 1);
    append_data(*opened.journal, 3, test::random_bytes(100, 3));
    opened.journal->raise_sequence(opened.journal->next_sequence() + 5);
    opened.journal->sync();
  }
  {
    OpenedJournal opened(on.directory, device_key());
    REQUIRE(opened.records.size() == 4);
    append_data(*opened.journal, 4, test::random_bytes(100, 4));
  }
  const fs::path newest = segments_of(on.directory).back();
  fs::resize_file(newest, fs::file_size(newest) - 10);
  CHECK(OpenedJournal(on.directory, device_key()).records.size() == 4);
}

TEST_CASE("a mark is ignored without its segment, so a reused number is not marked", "[image]") {
  MarkBench on;
  {
    OpenedJournal opened(on.directory, device_key(), 1);
    const auto kept = append_data(*opened.journal, 0, test::random_bytes(100, 0));
    opened.journal->roll();
    append_data(*opened.journal, 1, test::random_bytes(100, 1));
    opened.journal->sync();
    opened.journal->roll();
    opened.journal->collect();
  }
  {
    OpenedJournal opened(on.directory, device_key());
    REQUIRE(opened.records.size() == 1);
    append_data(*opened.journal, 2, test::random_bytes(100, 2));
  }
  const fs::path newest = segments_of(on.directory).back();
  fs::resize_file(newest, fs::file_size(newest) - 10);
  CHECK(OpenedJournal(on.directory, device_key()).records.size() == 1);
}

TEST_CASE("a last segment that ends after a whole record, but before the mark's last one, is damage", "[image]") {
  MarkBench on;
  make_journal(on.directory);
  {
    OpenedJournal opened(on.directory, device_key(), 1);
    append_data(*opened.journal, 3, test::random_bytes(100, 3));
    append_data(*opened.journal, 4, test::random_bytes(100, 4));
    opened.journal->sync();
  }
  const fs::path newest = segments_of(on.directory).back();
  fs::resize_file(newest, fs::file_size(newest) - record_size(100));
  CHECK(kind_thrown([&] { OpenedJournal(on.directory, device_key()); }) == ErrorKind::kCorrupt);
}

TEST_CASE("an older mark covers less but is not wrong", "[image]") {
  MarkBench on;
  make_journal(on.directory);
  const Bytes older = read_file(on.mark, 1000);
  {
    OpenedJournal opened(on.directory, device_key(), kMark);
    append_data(*opened.journal, 3, test::random_bytes(20'000, 3));
    opened.journal->sync();
  }
  CHECK(read_file(on.mark, 1000) != older);
  replace_file(on.mark, older);
  CHECK(OpenedJournal(on.directory, device_key()).records.size() == 4);
}

}  // namespace isr
