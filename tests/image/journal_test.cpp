#include "image/journal.h"

#include <fcntl.h>

#include <catch2/catch.hpp>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "support/bytes.h"

namespace isr {
namespace {

struct Replayed {
  RecordKind kind;
  std::uint16_t image;
  std::uint64_t offset;
  Bytes payload;
  RecordPlace place;
};

struct Opened {
  Opened(const fs::path& directory, const Key& key) {
    journal = std::make_unique<Journal>(directory, key, [&](const ReplayedRecord& r) {
      records.push_back({r.kind, r.image, r.offset, to_bytes(r.payload), r.place});
    });
  }
  std::vector<Replayed> records;
  std::unique_ptr<Journal> journal;
};

Key test_key() { return hkdf_sha256(as_bytes("device"), {}, "test"); }

RecordPlace append(Journal& journal, std::uint64_t offset, ByteView payload) {
  const Journal::Entry entry{RecordKind::kData, 3, offset, payload};
  return journal.append({&entry, 1})[0];
}

fs::path only_segment_with_records(const fs::path& directory) {
  fs::path found;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.file_size() > 48) found = entry.path();
  }
  return found;
}

void flip_byte(const fs::path& file, std::uint64_t offset) {
  const UniqueFd fd = open_file(file, O_RDWR);
  Bytes byte(1);
  read_exact_at(fd.get(), byte, offset, file);
  byte[0] ^= 1;
  write_all_at(fd.get(), byte, offset, file);
}

}  // namespace

TEST_CASE("a journal gives back what was appended, also after it was opened again", "[image]") {
  const TempDirectory temp;
  const Bytes first = test::random_bytes(100, 1);
  const Bytes second = test::random_bytes(kMaxRecordPayload, 2);
  {
    Opened opened(temp.path() / "j", test_key());
    CHECK(opened.records.empty());
    const auto a = append(*opened.journal, 7, first);
    const auto b = append(*opened.journal, 9, second);
    opened.journal->sync();
    Bytes out(second.size());
    opened.journal->read(b, out);
    CHECK((out == second));
    out.resize(first.size());
    opened.journal->read(a, out);
    CHECK((out == first));
  }
  Opened again(temp.path() / "j", test_key());
  REQUIRE(again.records.size() == 2);
  CHECK(again.records[0].offset == 7);
  CHECK((again.records[0].payload == first));
  CHECK((again.records[1].payload == second));
  CHECK(again.records[1].image == 3);
  Bytes out(second.size());
  again.journal->read(again.records[1].place, out);
  CHECK((out == second));
}

TEST_CASE("a journal's files hold no plaintext and open under no other key", "[image]") {
  const TempDirectory temp;
  const std::string canary = "canary-canary-canary-canary-canary";
  {
    Opened opened(temp.path() / "j", test_key());
    append(*opened.journal, 0, as_bytes(canary));
    opened.journal->sync();
    append(*opened.journal, 0, as_bytes(canary));
  }
  const fs::path segment = only_segment_with_records(temp.path() / "j");
  const Bytes raw = read_file(segment, 1U << 20U);
  CHECK(as_text(raw).find("canary") == std::string_view::npos);
  Key other = test_key();
  other.value[0] ^= 1;
  // The first record was synced, which a later record would say, but nothing opens here at all.
  Opened opened(temp.path() / "j", other);
  CHECK(opened.records.empty());
}

TEST_CASE("a torn end of a journal is cut off and the rest replayed", "[image]") {
  const TempDirectory temp;
  const Bytes data = test::random_bytes(5000, 3);
  {
    Opened opened(temp.path() / "j", test_key());
    for (int i = 0; i < 10; ++i) append(*opened.journal, i, data);
  }
  const fs::path segment = only_segment_with_records(temp.path() / "j");
  const auto size = fs::file_size(segment);
  const std::uint64_t cut = GENERATE(1, 16, 17, 5000, 5048, 5049, 10000);
  fs::resize_file(segment, size - cut);
  const std::size_t expected = 10 - (cut + 5047) / 5048;
  {
    Opened opened(temp.path() / "j", test_key());
    CHECK(opened.records.size() == expected);
    append(*opened.journal, 99, data);
  }
  Opened again(temp.path() / "j", test_key());
  REQUIRE(again.records.size() == expected + 1);
  CHECK(again.records.back().offset == 99);
}

TEST_CASE("damage among synced records is named, not taken for a torn end", "[image]") {
  const TempDirectory temp;
  const Bytes data = test::random_bytes(1000, 4);
  {
    Opened opened(temp.path() / "j", test_key());
    for (int i = 0; i < 5; ++i) append(*opened.journal, i, data);
    opened.journal->sync();
    append(*opened.journal, 5, data);
  }
  const fs::path segment = only_segment_with_records(temp.path() / "j");
  const std::uint64_t where = GENERATE(48 + 2, 48 + 5, 48 + 40, 48 + 1048 * 2 + 700, 48 + 1048 * 4 + 31);
  flip_byte(segment, where);
  try {
    Opened opened(temp.path() / "j", test_key());
    FAIL("the damage at " << where << " was not seen");
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kCorrupt);
    CHECK(std::string(error.what()).find(segment.filename().string()) != std::string::npos);
  }
}

TEST_CASE("a journal deletes the segments that nobody holds a place in", "[image]") {
  const TempDirectory temp;
  Opened opened(temp.path() / "j", test_key());
  auto kept = append(*opened.journal, 0, test::random_bytes(1000, 5));
  opened.journal->roll();
  append(*opened.journal, 1, test::random_bytes(1000, 6));
  CHECK(opened.journal->collect() == 0);
  kept = {};
  CHECK(opened.journal->collect() > 1000);
  opened.journal.reset();
  Opened again(temp.path() / "j", test_key());
  REQUIRE(again.records.size() == 1);
  CHECK(again.records[0].offset == 1);
}

TEST_CASE("sequence numbers go on above what the caller knows of", "[image]") {
  const TempDirectory temp;
  Opened opened(temp.path() / "j", test_key());
  opened.journal->raise_sequence(500);
  CHECK(opened.journal->next_sequence() == 501);
}

}  // namespace isr
