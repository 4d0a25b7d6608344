// export: writes a version's disk to a file.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "account/parcel_version.h"
#include "account/version_reader.h"
#include "cli/app.h"
#include "cli/commands.h"
#include "transfer/export.h"

namespace isr {
namespace {

struct ExportOptions {
  std::string name;
  std::string raw;
  std::string qcow2;
  std::string disk;
};

int run_export(CommandContext& context, const ExportOptions& options) {
  if (options.raw.empty() == options.qcow2.empty()) {
    throw Error(ErrorKind::kUsage, "give --raw FILE or --qcow2 FILE");
  }
  const fs::path target = options.raw.empty() ? options.qcow2 : options.raw;
  if (target == "-") throw Error(ErrorKind::kUsage, "an export needs a file that can have holes, not standard output");
  if (fs::exists(target)) throw Error(ErrorKind::kUsage, fmt::format("{} exists", target.string()));
  OpenParcel parcel = context.open_parcel(options.name);
  const LoadedVersion loaded = load_version(parcel.account, parcel.entry, parcel.version.choice);
  VersionReader reader(parcel.account, Unreachable::kFail);
  const VersionImage& disk = choose_disk(loaded.version, options.disk);
  const auto image = reader.open(disk);
  const std::uint64_t size = export_size(*image, disk);
  if (disk.original_size != 0 && size != disk.original_size) {
    context.out.note(fmt::format("bytes were written after the original end of {}, {}; all its {} bytes are exported",
                                 disk.name, disk.original_size, size));
  }
  {
    Progress progress(context.out, "Exporting " + parcel.entry.name);
    const auto write = options.raw.empty() ? export_qcow2 : export_raw;
    write(*image, size, target, context.stop(),
          [&](std::string_view step, std::uint64_t done, std::uint64_t total) { progress.update(step, done, total); });
  }
  context.out.done(fmt::format("{}@{} {} is in {}", parcel.entry.name, loaded.label(), image->name(), target.string()),
                   {{"parcel", parcel.entry.name},
                    {"version", loaded.head.head.n},
                    {"disk", image->name()},
                    {"size", size},
                    {"file", target.string()}});
  return 0;
}

}  // namespace

void register_export(App& app) {
  auto exported = std::make_shared<ExportOptions>();
  app.command(Group::kAppliances, "export", "write a version's disk to a file")
      .argument("NAME[@V]", exported->name, "the parcel, and the version if not the newest")
      .option("--raw", exported->raw, "FILE", "a raw image, sparse")
      .option("--qcow2", exported->qcow2, "FILE", "a qcow2 image")
      .option("--disk", exported->disk, "NAME", "which disk, if there are several")
      .example("isr export work --raw disk.raw", "the newest version")
      .example("isr export work@3 --qcow2 disk.qcow2", "version 3")
      .exit_codes({0, 2, 10, 13, 14, 15, 18, 130})
      .run([exported](CommandContext& context) { return run_export(context, *exported); });
}

}  // namespace isr
