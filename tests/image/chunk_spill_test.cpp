#include "image/chunk_spill.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <random>
#include <thread>

#include "base/file.h"
#include "support/bytes.h"
#include "support/memory_source.h"

using namespace isr;

namespace {

ChunkRef name_of(std::uint64_t number) {
  ChunkRef ref;
  ref.cid = cid_of(test::random_bytes(16, number));
  return ref;
}

ChunkData chunk_of(std::uint64_t number) {
  const auto data = std::make_shared<std::array<std::uint8_t, kChunkSize>>();
  const Bytes bytes = test::random_bytes(kChunkSize, number);
  std::copy(bytes.begin(), bytes.end(), data->begin());
  return data;
}

bool holds(ChunkSpill& spill, std::uint64_t number, std::size_t within, std::size_t length) {
  Bytes out(length);
  const ChunkData wanted = chunk_of(number);
  if (!spill.read(name_of(number), within, out)) return false;
  CHECK(std::equal(out.begin(), out.end(), wanted->begin() + static_cast<std::ptrdiff_t>(within)));
  return true;
}

}  // namespace

TEST_CASE("any piece of a spilled chunk can be read back", "[image]") {
  const TempDirectory directory("isr-");
  const auto spill = make_chunk_spill({directory.path(), 8 * kChunkSize});
  CHECK_FALSE(holds(*spill, 1, 0, 4096));
  for (std::uint64_t i = 0; i < 8; ++i) spill->put(name_of(i), chunk_of(i));
  for (std::uint64_t i = 0; i < 8; ++i) {
    CHECK(holds(*spill, i, 0, kChunkSize));
    CHECK(holds(*spill, i, 8192, 4096));
    CHECK(holds(*spill, i, 513, 512));
    CHECK(holds(*spill, i, kChunkSize - 1, 1));
  }
  CHECK(std::filesystem::is_empty(directory.path()));  // the file has no name
}

TEST_CASE("a full spill drops the least recently used chunks", "[image]") {
  const TempDirectory directory("isr-");
  const auto spill = make_chunk_spill({directory.path(), 4 * kChunkSize});
  for (std::uint64_t i = 0; i < 4; ++i) spill->put(name_of(i), chunk_of(i));
  CHECK(holds(*spill, 0, 0, 4096));
  spill->put(name_of(4), chunk_of(4));
  spill->put(name_of(5), chunk_of(5));
  for (const std::uint64_t here : {0, 3, 4, 5}) CHECK(holds(*spill, here, 4096, 4096));
  for (const std::uint64_t gone : {1, 2}) CHECK_FALSE(spill->contains(name_of(gone)));
}

TEST_CASE("a spill that is given up frees its space and keeps no more chunks", "[image]") {
  const TempDirectory directory("isr-");
  const auto spill = make_chunk_spill({directory.path(), 8 * kChunkSize});
  for (std::uint64_t i = 0; i < 4; ++i) spill->put(name_of(i), chunk_of(i));
  CHECK(spill->give_up() == 4 * kChunkSize);
  CHECK(spill->give_up() == 0);
  spill->put(name_of(1), chunk_of(1));
  CHECK_FALSE(holds(*spill, 1, 0, 4096));
}

TEST_CASE("readers never see another chunk's bytes while slots are reused", "[image]") {
  const TempDirectory directory("isr-");
  const auto spill = make_chunk_spill({directory.path(), 3 * kChunkSize});
  std::vector<ChunkData> chunks;
  for (std::uint64_t i = 0; i < 12; ++i) chunks.push_back(chunk_of(i));
  std::atomic<std::uint64_t> found{0};
  std::atomic<bool> wrong{false};
  std::atomic<int> writing{2};
  {
    std::vector<std::jthread> threads;
    for (std::uint64_t writer = 0; writer < 2; ++writer) {
      threads.emplace_back([&, writer] {
        std::mt19937_64 random(writer);
        for (int i = 0; i < 2000; ++i) {
          const std::uint64_t number = random() % chunks.size();
          spill->put(name_of(number), chunks[number]);
        }
        --writing;
      });
    }
    for (std::uint64_t reader = 0; reader < 2; ++reader) {
      threads.emplace_back([&, reader] {
        std::mt19937_64 random(100 + reader);
        Bytes out(4096);
        while (writing > 0) {
          const std::uint64_t number = random() % chunks.size();
          const std::size_t within = random() % 32 * 4096;
          if (!spill->read(name_of(number), within, out)) continue;
          ++found;
          if (!std::equal(out.begin(), out.end(), chunks[number]->begin() + static_cast<std::ptrdiff_t>(within)))
            wrong = true;
        }
      });
    }
  }
  CHECK_FALSE(wrong);
  CHECK(found > 0);
}

TEST_CASE("a spill leaves the minimum of free space on the disk", "[image]") {
  const TempDirectory directory("isr-");
  const auto spill = make_chunk_spill({directory.path(), 8 * kChunkSize, UINT64_MAX});
  spill->put(name_of(1), chunk_of(1));
  CHECK_FALSE(spill->contains(name_of(1)));
}

TEST_CASE("without a usable directory there is no spill, and nothing fails", "[image]") {
  CHECK(make_chunk_spill({"/proc/nowhere", 8 * kChunkSize}) == nullptr);
  const TempDirectory directory("isr-");
  CHECK(make_chunk_spill({directory.path(), 0}) == nullptr);
}

TEST_CASE("a piece that was read before is not fetched again after memory dropped its chunk", "[image]") {
  const TempDirectory directory("isr-");
  const auto source = std::make_shared<test::MemorySource>("memory");
  const Key secret = hkdf_sha256(as_bytes("domain"), {}, "test");
  std::vector<ChunkRef> refs;
  for (std::uint64_t i = 0; i < 20; ++i) {
    const SealedObject sealed = seal_chunk(test::random_bytes(kChunkSize, i), secret);
    source->store(sealed.ref.cid, sealed.bytes);
    refs.push_back(sealed.ref);
  }
  ReaderOptions options;
  options.decoded_bytes = 4 * kChunkSize;
  options.spill = {directory.path(), 64 * kChunkSize};
  ChunkReader reader(source, options);
  Bytes out(4096);
  for (const ChunkRef& ref : refs) {
    reader.read_piece(ref, 0, out);
    reader.wait_for_spills();
  }
  const auto fetched = source->fetches();
  for (std::uint64_t i = 0; i < refs.size(); ++i) {
    reader.read_piece(refs[i], 8192, out);
    const Bytes whole = test::random_bytes(kChunkSize, i);
    CHECK(std::equal(out.begin(), out.end(), whole.begin() + 8192));
  }
  CHECK(source->fetches() == fetched);
}
