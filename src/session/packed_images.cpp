#include "session/packed_images.h"

namespace isr {
namespace {

void add_if_packed(std::vector<std::string>& names, const VersionImage& image) {
  if (rules_of(image.role).is_in_boot_pack) names.push_back(image.name);
}

}  // namespace

std::vector<std::string> packed_image_names(const SessionState& state) {
  std::vector<std::string> names;
  for (const SessionImage& image : state.images) add_if_packed(names, image.image);
  return names;
}

std::vector<std::string> packed_image_names(const ParcelVersion& version) {
  std::vector<std::string> names;
  for (const VersionImage& image : version.images) add_if_packed(names, image);
  return names;
}

}  // namespace isr
