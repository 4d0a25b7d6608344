#pragma once

#include <stop_token>

#include "account/parcel_version.h"
#include "base/file.h"
#include "base/progress.h"
#include "image/image.h"

namespace isr {

/// The disk of that name, or the first one when none is wanted. Error{kNotFound}.
const VersionImage& choose_disk(const ParcelVersion& version, const std::string& wanted);
/// The original size of a padded disk while its padding is all zeros, and that of the image else.
std::uint64_t export_size(Image& image, const VersionImage& described);
/// Writes the first `size` bytes of an image to a new raw file, holes kept; removed again after a failure.
/// Error{kUsage} when the file exists.
void export_raw(Image& image, std::uint64_t size, const fs::path& file, std::stop_token stop,
                const ProgressFn& progress);
/// The same as a qcow2 file, by qemu-img; needs the room of the raw file beside it meanwhile.
void export_qcow2(Image& image, std::uint64_t size, const fs::path& file, std::stop_token stop,
                  const ProgressFn& progress);

}  // namespace isr
