#pragma once

#include <stop_token>

#include "account/parcel_version.h"
#include "base/file.h"
#include "base/progress.h"
#include "image/image.h"

namespace isr {

/// The disk called `wanted`, or the first disk when `wanted` is empty. Error{kNotFound}.
const VersionImage& choose_disk(const ParcelVersion& version, const std::string& wanted);
/// The original size of a padded disk while its padding is all zeros, else the image's size.
std::uint64_t export_size(Image& image, const VersionImage& described);
/// Writes the first `size` bytes of an image to a new raw file and keeps holes. Removes the file after a failure.
/// Error{kUsage} when the file exists.
void export_raw(Image& image, std::uint64_t size, const fs::path& file, std::stop_token stop,
                const ProgressFn& progress);
/// As export_raw(), but makes a qcow2 file with qemu-img. Meanwhile it needs disk space for a raw file in the same
/// directory.
void export_qcow2(Image& image, std::uint64_t size, const fs::path& file, std::stop_token stop,
                  const ProgressFn& progress);

}  // namespace isr
