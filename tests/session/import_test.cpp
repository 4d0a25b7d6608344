#include "session/import.h"

#include <catch2/catch.hpp>

#include "base/file.h"
#include "session/inspect.h"
#include "support/account_place.h"
#include "support/bytes.h"

using namespace isr;

namespace {

/// And disks of some chunks.
struct Place : test::AccountPlace {
  /// Imports a disk whose chunks are made of these seeds, 0 being zeros.
  ImportResult import(const std::string& name, const std::vector<std::uint64_t>& seeds) {
    const fs::path file = directory.path() / (name + ".raw");
    Bytes bytes;
    for (const std::uint64_t seed : seeds) {
      const Bytes chunk = seed == 0 ? Bytes(kChunkSize) : test::random_bytes(kChunkSize, seed);
      bytes.insert(bytes.end(), chunk.begin(), chunk.end());
    }
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

TEST_CASE("what a parcel has already is hashed and not sealed again", "[session]") {
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

TEST_CASE("what the repository has lost meanwhile is stored again by an import that has it", "[session]") {
  Place place;
  place.import("first", {1, 2, 3});
  const SealedObject lost = seal_chunk(test::random_bytes(kChunkSize, 2), place.account.keys.domain_secret);
  REQUIRE(fs::remove(fs::path(place.entry.url) / object_name(lost.ref.cid)));
  const ImportResult second = place.import("second", {2, 3, 5});
  CHECK(second.known_bytes == kChunkSize);
  CHECK(place.is_whole());
}
