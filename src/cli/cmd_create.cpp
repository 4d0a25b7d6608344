// create: a new parcel with an empty disk.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/sizes.h"
#include "cli/app.h"
#include "cli/commands.h"
#include "cli/report_padding.h"
#include "cli/vm_flags.h"
#include "machine/cdrom.h"
#include "transfer/new_version.h"

namespace isr {
namespace {

struct CreateOptions {
  std::string name;
  std::optional<std::uint64_t> size;
  VmFlags vm;
  std::optional<std::string> cdrom;
};

int run_create(CommandContext& context, const CreateOptions& options) {
  const std::string name = new_parcel_name(options.name);
  const std::uint64_t size = options.size.value_or(20ULL << 30U);
  if (size == 0 || size % 512 != 0) {
    throw Error(ErrorKind::kUsage, fmt::format("a disk of {} bytes: it must be a multiple of 512", size));
  }
  if (size > kMaxImageSize) {
    throw Error(ErrorKind::kUsage, fmt::format("a disk of {} bytes: it must be 16 TiB at most", size));
  }
  ParcelVersion version;
  version.vm = settings_from(options.vm);
  version.images.push_back(make_disk("disk", size));
  version.message = "created empty";
  if (options.cdrom) check_cdrom(*options.cdrom);
  Account account = context.open_account(parse_parcel_name(options.name).repository);
  refuse_taken_name(account, name);
  const ParcelEntry parcel = create_parcel(account, name, version, context.stop());
  if (options.cdrom) insert_cdrom(account.host, parcel, *options.cdrom);
  const VersionImage& disk = version.images.front();
  report_padding(context, disk);
  context.out.done(fmt::format("{}@1: an empty disk of {}", name, format_size(disk.content.size())),
                   {{"parcel", name}, {"version", 1}, {"size", disk.content.size()}, {"original_size", size}});
  if (options.cdrom) context.out.note(fmt::format("isr start {}    boots from the CD on this host", name));
  return 0;
}

}  // namespace

void register_create(App& app) {
  auto create = std::make_shared<CreateOptions>();
  Command& create_command = app.command(Group::kAppliances, "create", "a new parcel with an empty disk");
  create_command.argument("NAME", create->name, "of the new parcel").size("--size", create->size, "of the disk (20G)");
  add_vm_flags(create_command, create->vm);
  create_command
      .option("--cdrom", create->cdrom, "ISO", "an image of this host, in the CD drive when it is started here")
      .example("isr create lab --size 40G --cdrom install.iso",
               "40 GiB that take no space until written; install with "
               "isr start lab")
      .example("isr create lab --size 1T --memory 4G", "with 4 GiB of memory")
      .note("Finish an installation before you suspend, because after a resume the CD drive is empty.")
      .exit_codes({0, 2, 13, 14, 15, 19})
      .run([create](CommandContext& context) { return run_create(context, *create); });
}

}  // namespace isr
