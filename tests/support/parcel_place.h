#pragma once

#include "base/whole_file.h"
#include "support/account_place.h"
#include "support/bytes.h"
#include "transfer/import.h"
#include "transfer/new_version.h"

namespace isr::test {

/// An account with the parcel "work", which has one disk of four chunks.
struct ParcelPlace : AccountPlace {
  ParcelEntry parcel;

  ParcelPlace() {
    const fs::path file = directory.path() / "disk.raw";
    replace_file(file, random_bytes(4 * kChunkSize, 1));
    ImportResult result;
    ParcelVersion version;
    version.images.push_back(import_disk(account, "disk", *open_disk_source(file, {.format = "raw"}), {}, {}, result));
    version.vm.memory_bytes = 16 << 20;
    parcel = create_parcel(account, "work", version);
  }
};

}  // namespace isr::test
