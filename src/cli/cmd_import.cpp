// import: a new parcel from a disk image.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/sizes.h"
#include "cli/app.h"
#include "cli/commands.h"
#include "cli/report_padding.h"
#include "cli/vm_flags.h"
#include "transfer/import.h"
#include "transfer/new_version.h"

namespace isr {
namespace {

struct ImportOptions {
  std::string name;
  std::string file;
  std::string format;
  bool force = false;
  VmFlags vm;
  std::string message;
};

/// Reports the parts that a forced import could not read. Returns the exit code.
int report_losses(CommandContext& context, const std::string& file, const ImportResult& result) {
  if (result.missing_bytes == 0 && result.unreadable_bytes == 0) return 0;
  if (result.missing_bytes > 0) {
    context.out.warn(fmt::format("{} is cut off: at least {} bytes are missing; the disk has zeros in their place",
                                 file, result.missing_bytes));
  }
  if (result.unreadable_bytes > 0) {
    context.out.warn(fmt::format("{} is damaged: {} bytes of the disk could not be read; it has zeros in their place",
                                 file, result.unreadable_bytes));
  }
  return to_exit_code(ErrorKind::kWarnings);
}

int run_import(CommandContext& context, const ImportOptions& options) {
  const auto began = std::chrono::steady_clock::now();
  const std::string name = new_parcel_name(options.name);
  const VmSettings settings = settings_from(options.vm);
  const auto source = open_disk_source(options.file, {options.format, options.force});
  Account account = context.open_account(parse_parcel_name(options.name).repository);
  refuse_taken_name(account, name);
  ParcelVersion version;
  version.vm = settings;
  version.message =
      options.message.empty() ? "import of " + fs::path(options.file).filename().string() : options.message;
  ImportResult result;
  {
    Progress progress(context.out, "Importing " + name);
    version.images.push_back(import_disk(
        account, "disk", *source, context.stop(),
        [&](std::string_view step, std::uint64_t done, std::uint64_t total) { progress.update(step, done, total); },
        result));
  }
  version.added_bytes = result.uploaded_bytes;
  if (options.message.empty() && result.missing_bytes + result.unreadable_bytes > 0) {
    version.message += fmt::format(", {} bytes missing, {} unreadable", result.missing_bytes, result.unreadable_bytes);
  }
  create_parcel(account, name, version, context.stop());
  const VersionImage& disk = version.images.front();
  report_padding(context, disk);
  const int code = report_losses(context, options.file, result);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  const std::string known =
      result.known_bytes > 0 ? fmt::format(" ({} of it known already)", format_size(result.known_bytes)) : "";
  context.out.done(
      fmt::format("{}@1: {} disk, {} of data{}, {} stored, in {:.1f} s", name, format_size(disk.content.size()),
                  format_size(result.data_bytes), known, format_size(result.uploaded_bytes), seconds),
      {{"parcel", name},
       {"version", 1},
       {"size", disk.content.size()},
       {"original_size", disk.original_size != 0 ? disk.original_size : disk.content.size()},
       {"data_bytes", result.data_bytes},
       {"known_bytes", result.known_bytes},
       {"uploaded_bytes", result.uploaded_bytes},
       {"missing_bytes", result.missing_bytes},
       {"unreadable_bytes", result.unreadable_bytes},
       {"objects", result.objects},
       {"seconds", seconds}});
  return code;
}

}  // namespace

void register_import(App& app) {
  auto import = std::make_shared<ImportOptions>();
  Command& import_command = app.command(Group::kAppliances, "import", "a new parcel from a disk image");
  import_command.argument("NAME", import->name, "of the new parcel")
      .argument("FILE", import->file, "raw, qcow2, vmdk, vdi or vhdx")
      .choice("--format", import->format, {"raw", "qcow2", "vmdk", "vdi", "vhdx"},
              "the format, if isr cannot detect it")
      .flag("--force", import->force, "import the readable parts of a cut or damaged file, with zeros for the rest");
  add_vm_flags(import_command, import->vm);
  import_command.option("-m,--message", import->message, "TEXT", "shown by isr log")
      .example("isr import work disk.qcow2 --memory 2G", "a VM with 2 GiB of memory")
      .example("isr import work disk.raw --format raw", "does not look at the first bytes of the file")
      .example("isr import work disk.vdi --force", "for a file that lost its end; prints how much is missing")
      .note(
          "Backing files, encrypted images, images of several files, compressed files and archives are refused. So are "
          "a file that is shorter than its own tables say, and an image that was not closed properly.")
      .note(
          "A file is raw when it begins with a partition table, a boot sector, a known file system or zeros, when its "
          "name ends in .raw, or with --format raw.")
      .note("A disk is padded with zeros to a multiple of 4096 bytes; isr export leaves them out while they are zeros.")
      .exit_codes({0, 2, 3, 13, 14, 15, 18, 19, 130})
      .run([import](CommandContext& context) { return run_import(context, *import); });
}

}  // namespace isr
