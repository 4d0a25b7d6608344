// umount: ends a mount of isr.
#include <fmt/format.h>

#include "cli/app.h"
#include "cli/commands.h"
#include "fusefs/mount.h"

namespace isr {
namespace {

int run_umount(CommandContext&, const std::string& directory) {
  if (!unmount(directory)) throw Error(ErrorKind::kNotFound, fmt::format("isr has no mount at {}", escaped(directory)));
  return 0;
}

}  // namespace

void register_umount(App& app) {
  auto unmounted = std::make_shared<std::string>();
  app.command(Group::kAppliances, "umount", "end a mount")
      .argument("DIR", *unmounted, "where it is mounted")
      .example("isr umount ~/look", "after isr mount work ~/look")
      .example("isr umount /mnt/dead", "also one whose daemon was killed")
      .exit_codes({0, 10, 18, 20})
      .run([unmounted](CommandContext& context) { return run_umount(context, *unmounted); });
}

}  // namespace isr
