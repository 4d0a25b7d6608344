#include "account/image_role.h"

#include <algorithm>
#include <array>

namespace isr {
namespace {

constexpr std::array<RoleRules, 5> kRoles{{
    {.role = ImageRole::kSystem,
     .name = "system",
     .is_disk = true,
     .is_checked_out = true,
     .sealed_by = SealedBy::kEveryPublish,
     .is_in_boot_pack = true,
     .may_have_patches = true,
     .is_content = true},
    {.role = ImageRole::kUser,
     .name = "user",
     .is_disk = true,
     .is_checked_out = true,
     .sealed_by = SealedBy::kEveryPublish,
     .is_in_boot_pack = true,
     .may_have_patches = true,
     .is_content = true},
    {.role = ImageRole::kMemory,
     .name = "memory",
     .is_checked_out = true,
     .sealed_by = SealedBy::kPublishOfMemory,
     .is_in_boot_pack = true,
     .may_have_patches = true,
     .is_content = true},
    {.role = ImageRole::kDevice,
     .name = "device",
     .is_checked_out = true,
     .sealed_by = SealedBy::kPublishOfSuspend,
     .is_content = true},
    {.role = ImageRole::kBootPack, .name = "bootpack"},
}};

}  // namespace

std::span<const RoleRules> image_roles() noexcept { return kRoles; }

const RoleRules& rules_of(ImageRole role) noexcept { return kRoles[static_cast<std::size_t>(role)]; }

std::string_view to_name(ImageRole role) noexcept { return rules_of(role).name; }

std::optional<ImageRole> role_from_name(std::string_view name) noexcept {
  for (const RoleRules& rules : kRoles) {
    if (rules.name == name) return rules.role;
  }
  return std::nullopt;
}

bool may_be_called(ImageRole role, std::string_view image_name) noexcept {
  if (!is_disk(role)) return image_name == to_name(role);
  return std::none_of(kRoles.begin(), kRoles.end(),
                      [&](const RoleRules& rules) { return !rules.is_disk && rules.name == image_name; });
}

}  // namespace isr
