#pragma once

#include <string>
#include <vector>

#include "session/session_state.h"

/// The names of the images whose pages a boot pack may have (RoleRules::is_in_boot_pack). BootPlace::image is a
/// position in this list, both when a guest's reads are recorded and when a pack is made from the record.
///
/// Order:   as the images in the session or version. A session and the suspended version that it publishes have the
///          same order.
namespace isr {

std::vector<std::string> packed_image_names(const SessionState& state);
std::vector<std::string> packed_image_names(const ParcelVersion& version);

}  // namespace isr
