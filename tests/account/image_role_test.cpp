#include "account/image_role.h"

#include <catch2/catch.hpp>
#include <string>

using namespace isr;

TEST_CASE("each role has the rules of its own row, and is found by its name", "[account]") {
  for (const RoleRules& rules : image_roles()) {
    INFO(rules.name);
    CHECK((rules_of(rules.role).name == rules.name));
    CHECK((role_from_name(rules.name) == rules.role));
    CHECK(may_be_called(rules.role, rules.is_disk ? "disk" : rules.name));
  }
}

TEST_CASE("a role without behaviour is unknown", "[account]") {
  CHECK_FALSE(role_from_name("ephemeral"));
  CHECK_FALSE(role_from_name(""));
}

TEST_CASE("no disk may have the name of memory, device state or boot pack, and these roles have no other names",
          "[account]") {
  for (const char* taken : {"memory", "device", "bootpack"}) CHECK_FALSE(may_be_called(ImageRole::kUser, taken));
  CHECK(may_be_called(ImageRole::kUser, "system"));
  CHECK_FALSE(may_be_called(ImageRole::kMemory, "device"));
}

TEST_CASE("versions that differ only in a boot pack have the same content", "[account]") {
  for (const RoleRules& rules : image_roles()) CHECK(rules.is_content == (rules.role != ImageRole::kBootPack));
}
