#include "session/settler.h"

#include <sys/stat.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <thread>

#include "support/fault_store.h"
#include "support/full_store.h"
#include "support/no_threads.h"
#include "support/suspended_session.h"

using namespace isr;
using Place = test::CheckedOut;

namespace {

/// Holds back all objects until open() is called.
class SlowStore : public test::FaultStore {
 public:
  using FaultStore::FaultStore;
  PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override {
    auto is_open = is_open_.lock();
    is_open.wait(opened_, [&] { return *is_open; });
    return FaultStore::put_new(name, bytes, stop);
  }
  void open() {
    *is_open_.lock() = true;
    opened_.notify_all();
  }

 private:
  Sync<bool> is_open_{false};
  std::condition_variable opened_;
};

}  // namespace

TEST_CASE("a publish succeeds without settling when no thread can be started", "[session]") {
  Place place;
  Session session(place.account, place.parcel);
  const test::NoThreads none;  // this publish seals and sends nothing, so it needs no thread
  CHECK(session.publisher().publish({}, {}).unchanged);
}

TEST_CASE("the journal is settled during an upload when the guest writes meanwhile", "[session]") {
  constexpr std::uint64_t kCalm = 64U << 20U;  // the size that a journal may keep, and the size of a segment
  Place place;
  Session session(place.account, place.parcel);
  session.images().image("disk")->write(0, test::random_bytes(4 * kChunkSize, 7));
  const auto slow = std::make_shared<SlowStore>(place.account.remote.store);
  place.account.remote.store = slow;
  std::atomic<bool> uploads{false};
  PublishResult result;
  std::jthread publish([&] {
    result = session.publisher().publish({}, [&](std::string_view step, std::uint64_t, std::uint64_t) {
      if (step == "upload") uploads = true;
    });
  });
  while (!uploads) std::this_thread::yield();
  const auto disk = session.images().image("disk");
  Bytes last;
  for (std::uint64_t round = 0; round * 4 * kChunkSize < kCalm + (kCalm / 4); ++round) {
    last = test::random_bytes(4 * kChunkSize, 100 + round);
    disk->write(0, last);
  }
  CHECK(session.images().journal_bytes() > kCalm);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(2);
  while (session.images().journal_bytes() > kCalm && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  CHECK(session.images().journal_bytes() < kCalm);
  slow->open();
  publish.join();
  CHECK(result.version == 2);
  Bytes now(last.size());
  disk->read(0, now);
  CHECK((now == last));
}

namespace {

constexpr std::uint64_t kChunks = 300;

/// Returns the disk space of a directory's files. This may be less than their sizes, because packs have holes where
/// objects were deleted.
std::uint64_t bytes_on_disk(const fs::path& directory) {
  std::uint64_t sum = 0;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    struct stat status {};
    if (entry.is_regular_file() && ::stat(entry.path().c_str(), &status) == 0) sum += status.st_blocks * 512ULL;
  }
  return sum;
}

}  // namespace

TEST_CASE("settling frees the disk space of sealed chunks when they are written again", "[session]") {
  test::ParcelPlace place;
  const fs::path file = place.directory.path() / "large.raw";
  replace_file(file, Bytes(kChunks * kChunkSize));
  ImportResult ignored;
  ParcelVersion version;
  version.vm.memory_bytes = 16 << 20;
  version.images.push_back(
      import_disk(place.account, "disk", *open_disk_source(file, {.format = "raw"}), {}, {}, ignored));
  const ParcelEntry parcel = create_parcel(place.account, "large", version);
  check_out(place.account, parcel, LockMode::kCheckout, {}, {});
  Session session(place.account, parcel);
  const fs::path settled = place.account.host.parcel_directory(parcel) / "settled";
  const auto write_and_seal = [&](std::uint64_t seed) {
    for (std::uint64_t n = 0; n < kChunks; ++n) {
      session.images().image("disk")->write(n * kChunkSize, test::random_bytes(kChunkSize, seed + n));
    }
    const BlobStorePtr store =
        std::exchange(place.account.remote.store, std::make_shared<test::FullStore>(place.account.remote.store));
    CHECK_THROWS(session.publisher().publish({}, {}));
    place.account.remote.store = store;
  };
  write_and_seal(1000);
  const std::uint64_t once = bytes_on_disk(settled);
  CHECK(once > kChunks * kChunkSize);
  write_and_seal(2000);
  CHECK(bytes_on_disk(settled) > once + once / 2);
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (bytes_on_disk(settled) > once + once / 2 && std::chrono::steady_clock::now() < end) {
    session.settle_if_due();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  CHECK(bytes_on_disk(settled) < once + once / 2);
  Bytes last(kChunkSize);
  session.images().image("disk")->read((kChunks - 1) * kChunkSize, last);
  CHECK((last == test::random_bytes(kChunkSize, 2000 + kChunks - 1)));
}
