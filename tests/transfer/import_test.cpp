#include "transfer/import.h"

#include <catch2/catch.hpp>
#include <set>

#include "account/version_reader.h"
#include "base/file.h"
#include "base/whole_file.h"
#include "daemon/mount_daemon.h"
#include "support/account_place.h"
#include "support/bytes.h"
#include "support/fault_store.h"
#include "transfer/check.h"
#include "transfer/export.h"
#include "transfer/new_version.h"

using namespace isr;

namespace {

/// And disks of some chunks.
struct Place : test::AccountPlace {
  /// Imports a disk whose chunks are made of these seeds, 0 being zeros.
  ImportResult import(const std::string& name, const std::vector<std::uint64_t>& seeds) {
    Bytes bytes;
    for (const std::uint64_t seed : seeds) {
      const Bytes chunk = seed == 0 ? Bytes(kChunkSize) : test::random_bytes(kChunkSize, seed);
      bytes.insert(bytes.end(), chunk.begin(), chunk.end());
    }
    return import_bytes(name, bytes);
  }

  ImportResult import_bytes(const std::string& name, const Bytes& bytes) {
    const fs::path file = directory.path() / (name + ".raw");
    replace_file(file, bytes);
    const auto source = open_disk_source(file, {.format = "raw"});
    ImportResult result;
    ParcelVersion version;
    version.images.push_back(import_disk(account, "disk", *source, {}, {}, result));
    parcel = create_parcel(account, name, version);
    return result;
  }

  /// Of the parcel that was imported last: every object fetched and opened.
  bool is_whole() {
    CheckOptions options;
    options.deep = true;
    return check_parcel(account, parcel, options, {}, {}).findings.empty();
  }

  ParcelEntry parcel;
};

}  // namespace

TEST_CASE("an import hashes content that a parcel already has, but does not seal it again", "[transfer]") {
  Place place;
  const ImportResult first = place.import("first", {1, 2, 0, 3, 4});
  CHECK(first.known_bytes == 0);
  CHECK(first.data_bytes == 4 * kChunkSize);
  const ImportResult second = place.import("second", {4, 0, 9, 2, 1, 1});
  CHECK(second.known_bytes == 4 * kChunkSize);
  CHECK(second.data_bytes == 5 * kChunkSize);
  CHECK(second.uploaded_bytes < 2 * kChunkSize);  // chunk 9 and a page
  CHECK(place.is_whole());
}

TEST_CASE("an import stores objects again that the repository has lost", "[transfer]") {
  Place place;
  place.import("first", {1, 2, 3});
  const SealedObject lost = seal_chunk(test::random_bytes(kChunkSize, 2), place.account.identity.domain_secret);
  REQUIRE(fs::remove(fs::path(place.entry.url) / object_name(lost.ref.cid)));
  const ImportResult second = place.import("second", {2, 3, 5});
  CHECK(second.known_bytes == kChunkSize);
  CHECK(place.is_whole());
}

TEST_CASE("a disk of an odd size is padded with zeros, and exported with its original size", "[transfer]") {
  Place place;
  const std::uint64_t size = GENERATE(1, 512, 4095, kChunkSize - 512, 3 * kChunkSize + 100);
  const Bytes content = test::random_bytes(size, 1);
  place.import_bytes("odd", content);
  const VersionImage disk = load_version(place.account, place.parcel).version.images.at(0);
  CHECK(disk.content.size() % kDiskSizeUnit == 0);
  CHECK(disk.content.size() - size < kDiskSizeUnit);
  CHECK(disk.original_size == size);
  VersionReader reader(place.account, Unreachable::kFail);
  const auto image = reader.open(disk);
  const fs::path out = place.directory.path() / "out";
  REQUIRE(export_size(*image, disk) == size);
  export_raw(*image, size, out, {}, {});
  CHECK((read_file(out, 1U << 20U) == content));
  Bytes behind(disk.content.size() - size, 0xff);
  CHECK(image->read(size, behind) == behind.size());
  CHECK(is_zero(behind));
}

TEST_CASE("a padded disk is exported whole once data was written after its original end", "[transfer]") {
  Place place;
  // As a guest would have left it: the last byte is the padding's.
  Bytes content(8192);
  content.back() = 1;
  place.import_bytes("written", content);
  VersionImage disk = load_version(place.account, place.parcel).version.images.at(0);
  CHECK(disk.original_size == 0);
  VersionReader reader(place.account, Unreachable::kFail);
  CHECK(export_size(*reader.open(disk), disk) == 8192);
  disk.original_size = 8000;
  CHECK(export_size(*reader.open(disk), disk) == 8192);
}

TEST_CASE("the lock of a branch is held while its first version is put", "[transfer]") {
  class AtFirstHead : public test::FaultStore {
   public:
    AtFirstHead(BlobStorePtr inner, std::function<void(const std::string& chain)> look)
        : FaultStore(std::move(inner)), look_(std::move(look)) {}
    PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override {
      const auto heads = name.find("/heads/");
      if (name.starts_with("parcels/") && heads != std::string_view::npos) look_(std::string(name.substr(0, heads)));
      return FaultStore::put_new(name, bytes, stop);
    }

   private:
    std::function<void(const std::string& chain)> look_;
  };
  Place place;
  place.import("work", {1, 2});
  const LoadedVersion from = load_version(place.account, place.parcel);
  const BlobStorePtr store = place.account.remote.store;
  std::vector<std::string> held;
  place.account.remote.store = std::make_shared<AtFirstHead>(store, [&](const std::string& chain) {
    const auto ruling = ParcelLock(store, chain, place.account.identity.signing, place.account.host.holder).show();
    if (ruling && ruling->record.held && ruling->ours) held.push_back(chain);
  });
  const ParcelEntry lab = branch_parcel(place.account, place.parcel, from, "lab");
  CHECK((held == std::vector<std::string>{lab.chain()}));
  CHECK_FALSE(place.account.lock(lab).show()->record.held);
}

TEST_CASE("a parcel leaves no version in the repository when another host took its name meanwhile", "[transfer]") {
  Place place;
  place.import("work", {1});
  const auto parcels = [&] {
    std::set<std::string> found;
    for (const auto& file : fs::recursive_directory_iterator(place.entry.url)) {
      if (file.path().parent_path().filename() == "heads") found.insert(file.path());
    }
    return found;
  };
  const auto before = parcels();
  CHECK_THROWS_AS(place.import("work", {2}), Error);
  CHECK((parcels() == before));
  CHECK(place.is_whole());
}
