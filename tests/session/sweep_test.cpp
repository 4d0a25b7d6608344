#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <thread>

#include "base/whole_file.h"
#include "session/checkout.h"
#include "session/session.h"
#include "support/bytes.h"
#include "support/fault_store.h"
#include "support/parcel_place.h"
#include "transfer/disk_source.h"
#include "transfer/import.h"
#include "transfer/new_version.h"

using namespace isr;

namespace {

constexpr std::uint64_t kChunks = 300;

/// Takes nothing, so that what a publish has sealed stays on this host.
class FullStore : public test::FaultStore {
 public:
  using FaultStore::FaultStore;
  PutResult put_new(std::string_view, ByteView, std::stop_token) override {
    throw Error(ErrorKind::kIo, "the store is full");
  }
};

/// The space that the files of a directory take on the disk. Packs have holes where objects were deleted.
std::uint64_t bytes_on_disk(const fs::path& directory) {
  std::uint64_t sum = 0;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    struct stat status {};
    if (entry.is_regular_file() && ::stat(entry.path().c_str(), &status) == 0) sum += status.st_blocks * 512ULL;
  }
  return sum;
}

}  // namespace

TEST_CASE("sealed chunks that were written again soon give their room back", "[session]") {
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
        std::exchange(place.account.remote.store, std::make_shared<FullStore>(place.account.remote.store));
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
