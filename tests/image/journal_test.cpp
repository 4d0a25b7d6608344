#include "image/journal.h"

#include <sys/resource.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <csignal>
#include <map>
#include <thread>

#include "base/error.h"
#include "base/whole_file.h"
#include "image/journal_bench.h"
#include "image/journal_segment.h"
#include "support/bytes.h"
#include "support/descriptor_limit.h"
#include "support/error_kind.h"

namespace isr {
namespace {

using test::append_data;
using test::device_key;
using test::flip_byte;
using test::kind_thrown;
using test::OpenedJournal;
using test::segments_of;

constexpr std::uint64_t kRecord = record_size(1000);

/// Bytes that this process may write into any file until the end of the scope.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(std::uint64_t bytes) : old_handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit{bytes, old_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, old_handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit old_{};
  void (*old_handler_)(int);
};

}  // namespace

TEST_CASE("a segment that cannot be set aside is an Error", "[image]") {
  const TempDirectory temp;
  { const OpenedJournal opened(temp.path() / "j", device_key()); }
  const fs::path segment = temp.path() / "j" / "0000000000000001.journal";
  replace_file(segment, Bytes(4096));
  fs::create_directory(segment.string() + ".unreadable");
  CHECK(kind_thrown([&] { OpenedJournal(temp.path() / "j", device_key()); }) == ErrorKind::kIo);
  CHECK(fs::exists(segment));
}

TEST_CASE("a journal returns appended records, even after it was opened again", "[image]") {
  const TempDirectory temp;
  const Bytes first = test::random_bytes(100, 1);
  const Bytes second = test::random_bytes(kMaxRecordPayload, 2);
  {
    OpenedJournal opened(temp.path() / "j", device_key());
    CHECK(opened.records.empty());
    const auto a = append_data(*opened.journal, 7, first);
    const auto b = append_data(*opened.journal, 9, second);
    opened.journal->sync();
    Bytes out(second.size());
    opened.journal->read(b, out);
    CHECK((out == second));
    out.resize(first.size());
    opened.journal->read(a, out);
    CHECK((out == first));
  }
  OpenedJournal again(temp.path() / "j", device_key());
  REQUIRE(again.records.size() == 2);
  CHECK(again.records[0].offset == 7);
  CHECK((again.records[0].payload == first));
  CHECK((again.records[1].payload == second));
  CHECK(again.records[1].image == 3);
  CHECK(again.records[1].sequence == again.records[0].sequence + 1);
  CHECK(again.journal->next_sequence() == again.records[1].sequence + 1);
  Bytes out(second.size());
  again.journal->read(again.records[1].place, out);
  CHECK((out == second));
}

TEST_CASE("a journal's files have no plaintext, and a wrong key does not change them", "[image]") {
  const TempDirectory temp;
  const std::string canary = "canary-canary-canary-canary-canary";
  {
    OpenedJournal opened(temp.path() / "j", device_key());
    append_data(*opened.journal, 0, as_bytes(canary));
  }
  const fs::path segment = segments_of(temp.path() / "j").at(0);
  const Bytes raw = read_file(segment, 1U << 20U);
  CHECK(as_text(raw).find("canary") == std::string_view::npos);
  Key other = device_key();
  other.value[0] ^= 1;
  CHECK((kind_thrown([&] { OpenedJournal(temp.path() / "j", other); }) == ErrorKind::kCorrupt));
  CHECK((read_file(segment, 1U << 20U) == raw));
  CHECK(OpenedJournal(temp.path() / "j", device_key()).records.size() == 1);
}

TEST_CASE("a torn end of a journal is cut off, and the rest is replayed", "[image]") {
  const TempDirectory temp;
  const Bytes data = test::random_bytes(5000, 3);
  {
    OpenedJournal opened(temp.path() / "j", device_key());
    for (int i = 0; i < 10; ++i) append_data(*opened.journal, i, data);
  }
  const fs::path segment = segments_of(temp.path() / "j").at(0);
  const auto size = fs::file_size(segment);
  const std::uint64_t cut = GENERATE(1, 16, 17, 5000, 5056, 5057, 10000);
  fs::resize_file(segment, size - cut);
  if (GENERATE(false, true)) fs::resize_file(segment, size);  // zeros instead
  const std::size_t expected = 10 - (cut + record_size(5000) - 1) / record_size(5000);
  {
    OpenedJournal opened(temp.path() / "j", device_key());
    CHECK(opened.records.size() == expected);
    append_data(*opened.journal, 99, data);
    opened.journal->sync();
    append_data(*opened.journal, 100, data);
  }
  OpenedJournal again(temp.path() / "j", device_key());
  REQUIRE(again.records.size() == expected + 2);
  CHECK(again.records.back().offset == 100);
}

TEST_CASE("when writes from the middle of the unsynced part were lost, the segment ends there", "[image]") {
  const TempDirectory temp;
  {
    OpenedJournal opened(temp.path() / "j", device_key());
    for (int i = 0; i < 4; ++i) append_data(*opened.journal, i, test::random_bytes(1000, 1));
    opened.journal->sync();
    for (int i = 4; i < 9; ++i) append_data(*opened.journal, i, test::random_bytes(1000, 1));
  }
  flip_byte(segments_of(temp.path() / "j").at(0), kSegmentHeaderSize + 5 * kRecord + 40);
  CHECK(OpenedJournal(temp.path() / "j", device_key()).records.size() == 5);
}

TEST_CASE("damage among synced records is named, not taken for a torn end", "[image]") {
  const TempDirectory temp;
  const Bytes data = test::random_bytes(1000, 4);
  const bool rolled = GENERATE(false, true);
  {
    OpenedJournal opened(temp.path() / "j", device_key());
    for (int i = 0; i < 5; ++i) append_data(*opened.journal, i, data);
    opened.journal->sync();
    if (rolled) opened.journal->roll();  // the record that says so lies in another segment
    append_data(*opened.journal, 5, data);
  }
  const fs::path segment = segments_of(temp.path() / "j").at(0);
  const Bytes before = read_file(segment, 1U << 20U);
  const std::uint64_t where =
      GENERATE(2, 5, 40, 60, 70, 80 + 2, 80 + 5, 80 + 40, 80 + 1048 * 2 + 700, 80 + 1048 * 4 + 31, 80 + 1048 * 5 - 1);
  flip_byte(segment, where);
  try {
    OpenedJournal opened(temp.path() / "j", device_key());
    FAIL("the damage at " << where << " was not seen");
  } catch (const Error& error) {
    CHECK((error.kind() == ErrorKind::kCorrupt || (where == 5 && error.kind() == ErrorKind::kUnsupported)));
    CHECK(std::string(error.what()).find(segment.filename().string()) != std::string::npos);
  }
  flip_byte(segment, where);
  CHECK((read_file(segment, 1U << 20U) == before));  // nothing was cut
}

TEST_CASE("a synced segment that ends too early, after a whole record, is damage", "[image]") {
  const TempDirectory temp;
  const bool was_raised = GENERATE(false, true);
  {
    OpenedJournal opened(temp.path() / "j", device_key());
    for (int i = 0; i < 5; ++i) append_data(*opened.journal, i, test::random_bytes(1000, i));
    opened.journal->sync();
    opened.journal->roll();
    if (was_raised) opened.journal->raise_sequence(1000);
    append_data(*opened.journal, 5, test::random_bytes(1000, 5));
  }
  const fs::path first = segments_of(temp.path() / "j").at(0);
  CHECK(OpenedJournal(temp.path() / "j", device_key()).records.size() == 6);  // whole, so it is opened
  const std::uint64_t records = GENERATE(0, 3, 4);
  fs::resize_file(first, kSegmentHeaderSize + records * kRecord);
  try {
    OpenedJournal opened(temp.path() / "j", device_key());
    FAIL("synced writes went away silently");
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kCorrupt);
    CHECK_THAT(error.what(), Catch::Contains(first.filename().string()));
  }
  CHECK(fs::file_size(first) == kSegmentHeaderSize + records * kRecord);  // nothing was changed
}

TEST_CASE("a gap before a segment that was never synced is not damage, even after later syncs", "[image]") {
  const TempDirectory temp;
  const Bytes data = test::random_bytes(1000, 1);
  {
    OpenedJournal opened(temp.path() / "j", device_key());
    for (int i = 0; i < 5; ++i) append_data(*opened.journal, i, data);
    opened.journal->roll();
    for (int i = 5; i < 8; ++i) append_data(*opened.journal, i, data);
  }
  const fs::path first = segments_of(temp.path() / "j").at(0);
  fs::resize_file(first, kSegmentHeaderSize + 2 * kRecord);  // the power was cut: its end had not been written yet
  for (std::size_t life = 0; life < 3; ++life) {
    OpenedJournal opened(temp.path() / "j", device_key());
    REQUIRE(opened.records.size() == 2 + 3 + 2 * life);
    for (std::size_t i = 2; i < 5; ++i) {
      CHECK(opened.records[i].offset == 3 + i);
      Bytes out(data.size());
      opened.journal->read(opened.records[i].place, out);
      CHECK((out == data));
    }
    append_data(*opened.journal, 8, data);
    opened.journal->sync();
    append_data(*opened.journal, 9, data);  // says that all before it was synced
  }
  fs::resize_file(first, kSegmentHeaderSize + kRecord);  // this was
  CHECK((kind_thrown([&] { OpenedJournal(temp.path() / "j", device_key()); }) == ErrorKind::kCorrupt));
}

TEST_CASE("a segment whose header never reached the disk does not prevent opening", "[image]") {
  const TempDirectory temp;
  {
    OpenedJournal opened(temp.path() / "j", device_key());
    append_data(*opened.journal, 1, test::random_bytes(1000, 1));
    opened.journal->sync();
    opened.journal->roll();
    append_data(*opened.journal, 2, test::random_bytes(1000, 1));
  }
  const fs::path second = segments_of(temp.path() / "j").at(1);
  const auto size = fs::file_size(second);
  fs::resize_file(second, GENERATE(0, 10));
  if (fs::file_size(second) == 0 && GENERATE(false, true)) fs::resize_file(second, size);
  {
    OpenedJournal opened(temp.path() / "j", device_key());
    CHECK(opened.records.size() == 1);
    append_data(*opened.journal, 3, test::random_bytes(1000, 1));
  }
  CHECK(OpenedJournal(temp.path() / "j", device_key()).records.size() == 2);
}

TEST_CASE("a segment without a header among synced ones is damage and is not changed", "[image]") {
  const TempDirectory temp;
  {
    OpenedJournal opened(temp.path() / "j", device_key());
    for (std::uint64_t i = 0; i < 3; ++i) {
      append_data(*opened.journal, i, test::random_bytes(1000, i));
      opened.journal->sync();
      opened.journal->roll();
    }
  }
  const fs::path second = segments_of(temp.path() / "j").at(1);
  SECTION("its header is zero") { write_all_at(open_file(second, O_RDWR).get(), Bytes(kSegmentHeaderSize), 0, second); }
  SECTION("it is empty") { fs::resize_file(second, 0); }
  const auto before = fs::file_size(second);
  try {
    OpenedJournal opened(temp.path() / "j", device_key());
    FAIL("synced writes went away silently");
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kCorrupt);
    CHECK_THAT(error.what(), Catch::Contains(second.filename().string()));
  }
  CHECK(fs::file_size(second) == before);
}

TEST_CASE("a segment under another segment's name is refused", "[image]") {
  const TempDirectory temp;
  {
    OpenedJournal opened(temp.path() / "j", device_key());
    append_data(*opened.journal, 1, test::random_bytes(1000, 1));
    opened.journal->roll();
    append_data(*opened.journal, 2, test::random_bytes(1000, 1));
  }
  const auto segments = segments_of(temp.path() / "j");
  fs::rename(segments[0], temp.path() / "j/0000000000000009.journal");
  CHECK((kind_thrown([&] { OpenedJournal(temp.path() / "j", device_key()); }) == ErrorKind::kCorrupt));
}

TEST_CASE("an append without space leaves nothing, and the next one succeeds", "[image]") {
  const TempDirectory temp;
  {
    OpenedJournal opened(temp.path() / "j", device_key());
    append_data(*opened.journal, 0, test::random_bytes(1000, 5));
    const bool had_synced = GENERATE(false, true);
    if (had_synced) opened.journal->sync();
    const Bytes large = test::random_bytes(3000, 6);
    {
      const FileSizeLimit limit(2000);
      for (int i = 0; i < 3; ++i)
        CHECK((kind_thrown([&] { append_data(*opened.journal, 1, large); }) == ErrorKind::kIo));
      append_data(*opened.journal, 2, test::random_bytes(1000, 7));
    }
    {
      const FileSizeLimit limit(10);  // not even a segment's header
      opened.journal->roll();
      for (int i = 0; i < 3; ++i)
        CHECK((kind_thrown([&] { append_data(*opened.journal, 1, large); }) == ErrorKind::kIo));
    }
    append_data(*opened.journal, 3, large);
    opened.journal->sync();
    append_data(*opened.journal, 4, large);
  }
  OpenedJournal again(temp.path() / "j", device_key());
  REQUIRE(again.records.size() == 4);
  CHECK(again.records[1].offset == 2);
  CHECK(again.records[3].offset == 4);
}

TEST_CASE("a journal can be synced when no more files can be opened, and continues when they can", "[image]") {
  const TempDirectory temp;
  OpenedJournal opened(temp.path() / "j", device_key());
  const Bytes data = test::random_bytes(1000, 5);
  append_data(*opened.journal, 0, data);
  std::optional<ErrorKind> without_files;
  {
    const test::DescriptorLimit none(0);  // no CHECK in here: the sanitizer takes a descriptor to look at its objects
    opened.journal->sync();
    append_data(*opened.journal, 1, data);
    opened.journal->sync();
    opened.journal->roll();
    without_files = kind_thrown([&] { append_data(*opened.journal, 2, data); });
    opened.journal->sync();
  }
  CHECK(without_files == ErrorKind::kIo);
  append_data(*opened.journal, 3, data);
  CHECK_NOTHROW(opened.journal->sync());
  opened.journal.reset();
  CHECK(OpenedJournal(temp.path() / "j", device_key()).records.size() == 3);
}

TEST_CASE("a journal with more segments than a process may have files is opened, read, synced and collected",
          "[image]") {
  const TempDirectory temp;
  constexpr std::uint64_t kSegments = 300;
  const test::DescriptorLimit few(100);
  const auto check_all = [](const Journal& journal, const std::vector<RecordPlace>& places) {
    for (std::uint64_t i = 0; i < places.size(); ++i) {
      const std::uint64_t which = i * 7 % places.size();
      Bytes out(1000);
      journal.read(places[which], out);
      REQUIRE((out == test::random_bytes(1000, which)));
    }
  };
  std::vector<RecordPlace> places;
  {
    OpenedJournal opened(temp.path() / "j", device_key());
    for (std::uint64_t i = 0; i < kSegments; ++i) {
      places.push_back(append_data(*opened.journal, i, test::random_bytes(1000, i)));
      if (i % 20 == 0) opened.journal->sync();
      opened.journal->roll();
    }
    opened.journal->sync();
    check_all(*opened.journal, places);
    places.clear();
  }
  OpenedJournal again(temp.path() / "j", device_key());
  REQUIRE(again.records.size() == kSegments);
  for (const auto& record : again.records) places.push_back(record.place);
  again.records.clear();
  check_all(*again.journal, places);
  CHECK(again.journal->segment_count() == kSegments);
  places.clear();
  CHECK(again.journal->collect() > kSegments * 1000);
  CHECK(again.journal->segment_count() == 0);
}

TEST_CASE("a journal deletes segments without holders", "[image]") {
  const TempDirectory temp;
  OpenedJournal opened(temp.path() / "j", device_key());
  auto kept = append_data(*opened.journal, 0, test::random_bytes(1000, 5));
  opened.journal->roll();
  append_data(*opened.journal, 1, test::random_bytes(1000, 6));
  CHECK(opened.journal->collect() == 0);
  kept = {};
  CHECK(opened.journal->collect() > 1000);
  CHECK(opened.journal->segment_count() == 1);
  CHECK(opened.journal->full_segments().empty());
  opened.journal.reset();
  OpenedJournal again(temp.path() / "j", device_key());
  REQUIRE(again.records.size() == 1);
  CHECK(again.records[0].offset == 1);
}

TEST_CASE("a journal without writes makes no files", "[image]") {
  const TempDirectory temp;
  for (int i = 0; i < 3; ++i) OpenedJournal(temp.path() / "j", device_key()).journal->sync();
  CHECK(segments_of(temp.path() / "j").empty());
}

TEST_CASE("sequence numbers continue above those that the caller knows", "[image]") {
  const TempDirectory temp;
  {
    OpenedJournal opened(temp.path() / "j", device_key());
    opened.journal->raise_sequence(500);
    CHECK(opened.journal->next_sequence() == 501);
    append_data(*opened.journal, 1, test::random_bytes(10, 1));
    opened.journal->raise_sequence(700);
    append_data(*opened.journal, 2, test::random_bytes(10, 1));
    opened.journal->raise_sequence(600);
    CHECK(opened.journal->next_sequence() == 702);
  }
  OpenedJournal again(temp.path() / "j", device_key());
  REQUIRE(again.records.size() == 2);
  CHECK(again.records[0].sequence == 501);
  CHECK(again.records[1].sequence == 701);
}

TEST_CASE("many threads append and sync at once, and all of it is replayed in order", "[image]") {
  const TempDirectory temp;
  constexpr std::uint64_t kThreads = 8;
  constexpr std::uint64_t kEach = 60;
  {
    OpenedJournal opened(temp.path() / "j", device_key());
    std::vector<std::jthread> threads;
    for (std::uint64_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        for (std::uint64_t i = 0; i < kEach; ++i) {
          const auto place = append_data(*opened.journal, t << 32U | i, test::random_bytes(100 + i, t));
          Bytes out(100 + i);
          opened.journal->read(place, out);
          if (i % 20 == t) opened.journal->sync();
          if (i % 30 == t) opened.journal->roll();
          if (i % 30 == t + 1) opened.journal->collect();
        }
      });
    }
    threads.clear();
  }
  OpenedJournal again(temp.path() / "j", device_key());
  std::map<std::uint64_t, std::uint64_t> last;
  std::uint64_t sequence = 0;
  for (const auto& record : again.records) {  // some were collected
    CHECK(record.sequence > sequence);
    sequence = record.sequence;
    const auto [it, first] = last.try_emplace(record.offset >> 32U, record.offset & 0xffffffffU);
    if (!first) CHECK((record.offset & 0xffffffffU) > it->second);
    it->second = record.offset & 0xffffffffU;
    CHECK((record.payload == test::random_bytes(record.payload.size(), record.offset >> 32U)));
  }
}

}  // namespace isr
