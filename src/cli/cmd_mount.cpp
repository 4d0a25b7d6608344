// mount: mounts a version read-only.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "account/parcel_version.h"
#include "cli/app.h"
#include "cli/commands.h"
#include "daemon/mount_daemon.h"

namespace isr {
namespace {

struct MountCommandOptions {
  std::string name;
  std::string directory;
};

int run_mount(CommandContext& context, const MountCommandOptions& options) {
  OpenParcel parcel = context.open_parcel(options.name);
  const LoadedVersion loaded = load_version(parcel.account, parcel.entry, parcel.version.choice);
  mount_version(parcel.account, parcel.entry, loaded.choice(), options.directory);
  if (context.out.json()) {
    context.out.document({{"schema", 1},
                          {"parcel", parcel.entry.name},
                          {"version", loaded.head.head.n},
                          {"mount", printable(fs::absolute(options.directory).string())}});
  } else {
    context.out.line(printable(
        fmt::format("{}@{} is mounted read-only at {}", parcel.entry.name, loaded.label(), options.directory)));
  }
  return 0;
}

}  // namespace

void register_mount(App& app) {
  auto mounted = std::make_shared<MountCommandOptions>();
  app.command(Group::kAppliances, "mount", "mount a version read-only, to look into it")
      .argument("NAME[@V]", mounted->name, "the parcel, and the version if not the newest")
      .argument("DIR", mounted->directory, "an empty directory")
      .example("isr mount work@41 ~/look", "~/look/disk.raw is the disk")
      .example("isr umount ~/look", "ends it")
      .exit_codes({0, 2, 10, 13, 14, 15, 18, 20})
      .run([mounted](CommandContext& context) { return run_mount(context, *mounted); });
}

}  // namespace isr
