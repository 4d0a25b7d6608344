#pragma once

#include <string>
#include <vector>

#include "session/session_state.h"

/// The images that a boot pack has pages of (RoleRules::is_in_boot_pack), by name. BootPlace::image is a position in
/// this list, both where a guest's reads are noted and where a pack is made of them.
///
/// Order: that of the images in the session or version, which is the same for a session and for the suspended version
///        that it publishes.
namespace isr {

std::vector<std::string> packed_image_names(const SessionState& state);
std::vector<std::string> packed_image_names(const ParcelVersion& version);

}  // namespace isr
