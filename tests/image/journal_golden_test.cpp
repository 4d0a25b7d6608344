// The bytes of a journal as docs/formats/journal.md gives them, made here by hand.

#include <catch2/catch.hpp>

#include "image/journal_bench.h"
#include "image/journal_mark.h"
#include "support/bytes.h"

namespace isr {
namespace {

const fs::path kGolden = fs::path(ISR_GOLDEN_DIR) / "journal" / "v3.journal";
const fs::path kGoldenMark = fs::path(ISR_GOLDEN_DIR) / "journal" / "mark-v1";

Key golden_device_key() { return hkdf_sha256(as_bytes("golden device key"), {}, "test"); }

Bytes sealed(const Key& key, ByteView nonce_bytes, ByteView header, ByteView payload) {
  Nonce nonce;
  std::copy(nonce_bytes.begin(), nonce_bytes.end(), nonce.value.begin());
  Bytes cipher(payload.size());
  const auto tag = gcm_seal(key, nonce, {header}, payload, cipher);
  return ByteWriter().put(header).put(cipher).put(tag).take();
}

Bytes golden_record(const Key& key, std::uint8_t kind, std::uint64_t offset, std::uint64_t sequence,
                    std::uint64_t synced, std::uint64_t moment, ByteView payload) {
  const auto length = static_cast<std::uint32_t>(payload.size());
  const Bytes header =
      ByteWriter().u8(kind).u8(0).u16(7).u32(length).u64(offset).u64(sequence).u64(synced).u64(moment).take();
  return sealed(key, ByteWriter().u64(sequence).u32(0).take(), header, payload);
}

Bytes golden_id() {
  Bytes id(32);
  for (std::size_t i = 0; i < id.size(); ++i) id[i] = static_cast<std::uint8_t>(i);
  return id;
}

Bytes golden_segment() {
  const Bytes id = golden_id();
  const Key key = hkdf_sha256(golden_device_key().view(), id, "isr1/journal");
  const Bytes head = ByteWriter().put(as_bytes("ISRJ")).u32(3).put(id).u64(1).u64(41).u64(30).take();
  ByteWriter out;
  out.put(sealed(key, Bytes(12, 0xff), head, {}));
  out.put(golden_record(key, 1, 4096, 41, 0, 41, test::random_bytes(512, 1)));
  out.put(golden_record(key, 2, 131072, 42, 41, 17, ByteWriter().u64(65536).take()));
  const Bytes replace = ByteWriter().put(test::random_bytes(32, 2)).u32(1000).put(test::random_bytes(84, 3)).take();
  out.put(golden_record(key, 3, 262144, 43, 41, 40, replace));
  return out.take();
}

/// Records up to 43 are durable.
Bytes golden_mark() {
  const Key key = hkdf_sha256(golden_device_key().view(), golden_id(), "isr1/journal-mark");
  const Bytes head = ByteWriter().put(as_bytes("ISRM")).u32(1).put(golden_id()).take();
  const Bytes nonce = test::random_bytes(12, 4);
  Nonce sealing;
  std::copy(nonce.begin(), nonce.end(), sealing.value.begin());
  const Bytes synced = ByteWriter().u64(43).take();
  Bytes cipher(synced.size());
  const auto tag = gcm_seal(key, sealing, {head}, synced, cipher);
  return ByteWriter().put(head).put(nonce).put(cipher).put(tag).take();
}

}  // namespace

TEST_CASE("a journal segment has exactly the bytes of its golden file", "[image]") {
  CHECK((read_file(kGolden, 1U << 20U) == golden_segment()));
}

TEST_CASE("a journal segment of format 3 is replayed", "[image]") {
  const TempDirectory temp;
  make_private_directory(temp.path() / "j");
  fs::copy_file(kGolden, temp.path() / "j/0000000000000001.journal");
  test::OpenedJournal opened(temp.path() / "j", golden_device_key());
  REQUIRE(opened.records.size() == 3);
  CHECK((opened.records[0].kind == RecordKind::kData && opened.records[0].offset == 4096));
  CHECK(opened.records[0].image == 7);
  CHECK((opened.records[0].payload == test::random_bytes(512, 1)));
  CHECK((opened.records[1].kind == RecordKind::kZero && opened.records[1].sequence == 42));
  CHECK((opened.records[2].kind == RecordKind::kReplace && opened.records[2].payload.size() == 120));
  CHECK((opened.records[0].moment == 41 && opened.records[1].moment == 17 && opened.records[2].moment == 40));
  CHECK(opened.journal->next_sequence() == 44);
}

TEST_CASE("a journal's mark has exactly the bytes of its golden file, and is read", "[image]") {
  CHECK((read_file(kGoldenMark, 1000) == golden_mark()));
  const TempDirectory temp;
  fs::copy_file(kGoldenMark, temp.path() / "synced");
  const auto segment = JournalSegment::parse("1.journal", golden_segment(), golden_device_key());
  const Mark mark = read_mark(temp.path(), golden_device_key(), {&segment, 1});
  CHECK((mark.synced == 43 && mark.newest == segment));
  CHECK(read_mark(temp.path(), golden_device_key(), {}).newest == nullptr);
}

}  // namespace isr
