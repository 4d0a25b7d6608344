// import, create, export, mount, umount, check: disks and versions without a session.

#include <fcntl.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "account/parcel_version.h"
#include "account/version_reader.h"
#include "base/child_process.h"
#include "base/file.h"
#include "base/sizes.h"
#include "cli/app.h"
#include "cli/commands.h"
#include "cli/session_commands.h"
#include "daemon/mount_daemon.h"
#include "fusefs/mount.h"
#include "machine/cdrom.h"
#include "transfer/check.h"
#include "transfer/export.h"
#include "transfer/import.h"
#include "transfer/new_version.h"

namespace isr {
namespace {

using nlohmann::json;

struct ImportOptions {
  std::string name;
  std::string file;
  std::string format;
  bool force = false;
  std::optional<std::uint64_t> size;  // of create
  std::optional<std::uint64_t> memory;
  std::optional<std::uint64_t> cpus;
  std::string cpu_model;
  std::string machine;
  std::string network;  // "": restricted
  std::string message;
  std::optional<std::string> cdrom;  // of create
};

struct ExportOptions {
  std::string name;
  std::string raw;
  std::string qcow2;
  std::string disk;
};

struct MountCommandOptions {
  std::string name;
  std::string directory;
};

struct CheckCommandOptions {
  std::vector<std::string> names;
  bool deep = false;
  bool newest = false;
};

VmSettings settings_from(const ImportOptions& options) {
  VmSettings settings;
  if (const auto mode = find_network_mode(options.network)) settings.network = *mode;
  if (options.memory) settings.memory_bytes = *options.memory;
  if (options.cpus) settings.cpus = static_cast<unsigned>(std::min<std::uint64_t>(*options.cpus, 1U << 20U));
  if (!options.cpu_model.empty()) settings.cpu_model = options.cpu_model;
  if (!options.machine.empty()) settings.machine = options.machine;
  check_vm_settings(settings);
  return settings;
}

/// Says what a forced import did not find; the exit code.
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

void report_padding(CommandContext& context, const VersionImage& disk) {
  constexpr std::uint64_t kSector = 512;
  if (disk.original_size == 0) return;
  const std::string padding = fmt::format(
      "{} has {} bytes; {} zeros make it {}, a multiple of {}, as QEMU needs; isr export gives {} bytes back",
      disk.name, disk.original_size, disk.tree.size - disk.original_size, disk.tree.size, kDiskSizeUnit,
      disk.original_size);
  if (disk.original_size % kSector == 0) {
    context.out.note(padding);
  } else {
    context.out.warn(padding + "; its length is not a multiple of 512: the file may be cut off");
  }
}

int run_import(CommandContext& context, const ImportOptions& options) {
  const auto began = std::chrono::steady_clock::now();
  const std::string name = new_parcel_name(options.name);
  const VmSettings settings = settings_from(options);
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
  context.out.done(fmt::format("{}@1: {} disk, {} of data{}, {} stored, in {:.1f} s", name, format_size(disk.tree.size),
                               format_size(result.data_bytes), known, format_size(result.uploaded_bytes), seconds),
                   {{"parcel", name},
                    {"version", 1},
                    {"size", disk.tree.size},
                    {"original_size", disk.original_size != 0 ? disk.original_size : disk.tree.size},
                    {"data_bytes", result.data_bytes},
                    {"known_bytes", result.known_bytes},
                    {"uploaded_bytes", result.uploaded_bytes},
                    {"missing_bytes", result.missing_bytes},
                    {"unreadable_bytes", result.unreadable_bytes},
                    {"objects", result.objects},
                    {"seconds", seconds}});
  return code;
}

int run_create(CommandContext& context, const ImportOptions& options) {
  const std::string name = new_parcel_name(options.name);
  const std::uint64_t size = options.size.value_or(20ULL << 30U);
  if (size == 0 || size % 512 != 0) {
    throw Error(ErrorKind::kUsage, fmt::format("a disk of {} bytes: it must be a multiple of 512", size));
  }
  if (size > kMaxImageSize) {
    throw Error(ErrorKind::kUsage, fmt::format("a disk of {} bytes: at most 16 TiB are possible", size));
  }
  ParcelVersion version;
  version.vm = settings_from(options);
  version.images.push_back(make_disk("disk", size));
  version.message = "created empty";
  if (options.cdrom) check_cdrom(*options.cdrom);
  Account account = context.open_account(parse_parcel_name(options.name).repository);
  refuse_taken_name(account, name);
  const ParcelEntry parcel = create_parcel(account, name, version, context.stop());
  if (options.cdrom) insert_cdrom(account, parcel, *options.cdrom);
  const VersionImage& disk = version.images.front();
  report_padding(context, disk);
  context.out.done(fmt::format("{}@1: an empty disk of {}", name, format_size(disk.tree.size)),
                   {{"parcel", name}, {"version", 1}, {"size", disk.tree.size}, {"original_size", size}});
  if (options.cdrom) context.out.note(fmt::format("isr start {}    boots from the CD on this host", name));
  return 0;
}

const VersionImage& choose_disk(const ParcelVersion& version, const std::string& wanted) {
  for (const VersionImage& image : version.images) {
    if (wanted.empty() ? is_disk(image.role) : image.name == wanted) return image;
  }
  throw Error(ErrorKind::kNotFound, fmt::format("there is no image called {}", wanted));
}

/// Removes a file that an operation which fails or is interrupted would leave, or that it only needs meanwhile.
class PassingFile {
 public:
  explicit PassingFile(fs::path path) : path_(std::move(path)) {}
  ~PassingFile() {
    std::error_code absent;
    if (!kept_) fs::remove(path_, absent);
  }
  PassingFile(const PassingFile&) = delete;
  PassingFile& operator=(const PassingFile&) = delete;
  void keep() noexcept { kept_ = true; }

 private:
  fs::path path_;
  bool kept_ = false;
};

void convert_to_qcow2(const fs::path& raw, const fs::path& target, const std::stop_token& stop) {
  constexpr std::chrono::hours kLongest{24 * 365};
  PassingFile made(target);
  ChildProcess child;
  ChildOptions how;
  how.program = "qemu-img";
  // Absolute: else a colon in a name would make it an address.
  how.arguments = {"convert", "-f", "raw", "-O", "qcow2", fs::absolute(raw).string(), fs::absolute(target).string()};
  how.directory = "/";
  child.start(std::move(how));
  const auto status = child.wait_exit({kLongest, stop});
  if (status != 0) {
    const std::string why = status ? describe_status(*status) : "it does not end";
    const std::string said = child.last_words();
    throw Error(ErrorKind::kIo,
                fmt::format("qemu-img could not write {}: {}", target.string(), said.empty() ? why : said));
  }
  sync_file(open_file(target, O_RDONLY).get(), target);  // qemu-img does not: a power cut would leave zeros
  made.keep();
}

int run_export(CommandContext& context, const ExportOptions& options) {
  if (options.raw.empty() == options.qcow2.empty()) {
    throw Error(ErrorKind::kUsage, "say --raw FILE or --qcow2 FILE");
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
    context.out.note(fmt::format("bytes were written behind the original end of {}, {}: all its {} bytes are exported",
                                 disk.name, disk.original_size, size));
  }
  const fs::path raw = options.raw.empty() ? fs::path(target.string() + ".partial") : target;
  {
    Progress progress(context.out, "Exporting " + parcel.entry.name);
    export_raw(*image, size, raw, context.stop(), [&](std::string_view step, std::uint64_t done, std::uint64_t total) {
      progress.update(step, done, total);
    });
  }
  if (raw != target) {
    const PassingFile whole(raw);
    convert_to_qcow2(raw, target, context.stop());
  }
  context.out.done(fmt::format("{}@{} {} is in {}", parcel.entry.name, loaded.label(), image->name(), target.string()),
                   {{"parcel", parcel.entry.name},
                    {"version", loaded.head.head.n},
                    {"disk", image->name()},
                    {"size", size},
                    {"file", target.string()}});
  return 0;
}

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

int run_umount(CommandContext&, const std::string& directory) {
  if (!unmount(directory))
    throw Error(ErrorKind::kNotFound, fmt::format("nothing of isr is mounted at {}", escaped(directory)));
  return 0;
}

int run_check(CommandContext& context, const CheckCommandOptions& options) {
  Account account = context.open_account();
  account.online("a check");
  std::vector<ParcelEntry> parcels;
  const Profile profile = read_profile(account);
  for (const std::string& name : options.names) parcels.push_back(find_parcel(profile, name));
  if (options.names.empty()) parcels = profile.parcels;
  CheckOptions how;
  how.deep = options.deep;
  how.newest_only = options.newest;
  json findings = json::array();
  json checked = json::array();
  for (const ParcelEntry& parcel : parcels) {
    Progress progress(context.out, "Checking " + parcel.name);
    const CheckReport report = check_parcel(
        account, parcel, how, context.stop(),
        [&](std::string_view step, std::uint64_t done, std::uint64_t total) { progress.update(step, done, total); });
    progress.clear();
    checked.push_back({{"name", parcel.name},
                       {"versions", report.versions},
                       {"pages", report.pages},
                       {"chunks", report.chunks},
                       {"problems", report.findings.size()}});
    if (!context.out.json()) {
      context.out.line(fmt::format(
          "{}: {} versions, {} pages, {} chunks: {}", parcel.name, report.versions, report.pages, report.chunks,
          report.findings.empty() ? "ok" : fmt::format("{} problems", report.findings.size())));
    }
    for (const CheckFinding& finding : report.findings) {
      findings.push_back({{"parcel", parcel.name}, {"where", finding.where}, {"problem", finding.problem}});
      if (!context.out.json()) context.out.line(fmt::format("  {}: {}", finding.where, finding.problem));
    }
  }
  if (context.out.json()) context.out.document({{"schema", 1}, {"parcels", checked}, {"findings", findings}});
  return findings.empty() ? 0 : to_exit_code(ErrorKind::kCorrupt);
}

void add_vm_flags(Command& command, ImportOptions& options) {
  command.size("--memory", options.memory, "of the VM (512M)")
      .number("--cpus", options.cpus, "N", "virtual processors (1)")
      .option("--cpu-model", options.cpu_model, "MODEL", "a versioned QEMU model")
      .option("--machine", options.machine, "TYPE", "a versioned QEMU machine type")
      .choice("--network", options.network, network_modes(),
              "its cable is out, it reaches nothing outside (restricted, if not said), or it connects as you do");
}

}  // namespace

void register_image(App& app) {
  auto import = std::make_shared<ImportOptions>();
  Command& import_command = app.command(Group::kAppliances, "import", "a new parcel from a disk image");
  import_command.argument("NAME", import->name, "of the new parcel")
      .argument("FILE", import->file, "raw, qcow2, vmdk, vdi or vhdx")
      .choice("--format", import->format, {"raw", "qcow2", "vmdk", "vdi", "vhdx"}, "when not to be told from the file")
      .flag("--force", import->force, "import what a cut or damaged file has, with zeros for the rest");
  add_vm_flags(import_command, *import);
  import_command.option("-m,--message", import->message, "TEXT", "shown by isr log")
      .example("isr import work disk.qcow2 --memory 2G", "a VM with 2 GiB of memory")
      .example("isr import work disk.raw --format raw", "whatever the file begins with")
      .example("isr import work disk.vdi --force", "of a file that lost its end; says how much is missing")
      .note(
          "Backing files, encrypted images, images of several files, compressed files and archives are refused. So are "
          "a file that is shorter than its own tables say, and an image that was not closed properly.")
      .note(
          "A file is raw when it begins with a partition table, a boot sector, a known file system or zeros, when its "
          "name ends in .raw, or with --format raw.")
      .note("A disk is padded with zeros to a multiple of 4096 bytes; isr export leaves them out while they are zeros.")
      .exit_codes({0, 2, 3, 13, 14, 15, 18, 19, 130})
      .run([import](CommandContext& context) { return run_import(context, *import); });

  auto create = std::make_shared<ImportOptions>();
  Command& create_command = app.command(Group::kAppliances, "create", "a new parcel with an empty disk");
  create_command.argument("NAME", create->name, "of the new parcel").size("--size", create->size, "of the disk (20G)");
  add_vm_flags(create_command, *create);
  create_command
      .option("--cdrom", create->cdrom, "ISO", "an image of this host, in the CD drive when it is started here")
      .example("isr create lab --size 40G --cdrom install.iso",
               "40 GiB that cost nothing until written; install with "
               "isr start lab")
      .example("isr create lab --size 1T --memory 4G", "with 4 GiB of memory")
      .note("Finish an installation before you suspend: a resume finds the CD drive empty.")
      .exit_codes({0, 2, 13, 14, 15, 19})
      .run([create](CommandContext& context) { return run_create(context, *create); });

  auto exported = std::make_shared<ExportOptions>();
  app.command(Group::kAppliances, "export", "write a version's disk to a file")
      .argument("NAME[@V]", exported->name, "the parcel, and the version if not the newest")
      .option("--raw", exported->raw, "FILE", "a raw image, sparse")
      .option("--qcow2", exported->qcow2, "FILE", "a qcow2 image")
      .option("--disk", exported->disk, "NAME", "when it has several disks")
      .example("isr export work --raw disk.raw", "the newest version")
      .example("isr export work@3 --qcow2 disk.qcow2", "version 3")
      .exit_codes({0, 2, 10, 13, 14, 15, 18, 130})
      .run([exported](CommandContext& context) { return run_export(context, *exported); });

  auto mounted = std::make_shared<MountCommandOptions>();
  app.command(Group::kAppliances, "mount", "look into a version, read-only")
      .argument("NAME[@V]", mounted->name, "the parcel, and the version if not the newest")
      .argument("DIR", mounted->directory, "an empty directory")
      .example("isr mount work@41 ~/look", "~/look/disk.raw is the disk")
      .example("isr umount ~/look", "ends it")
      .exit_codes({0, 2, 10, 13, 14, 15, 18, 20})
      .run([mounted](CommandContext& context) { return run_mount(context, *mounted); });

  auto unmounted = std::make_shared<std::string>();
  app.command(Group::kAppliances, "umount", "end a mount")
      .argument("DIR", *unmounted, "where it is mounted")
      .example("isr umount ~/look", "after isr mount work ~/look")
      .example("isr umount /mnt/dead", "also one whose daemon was killed")
      .exit_codes({0, 10, 18, 20})
      .run([unmounted](CommandContext& context) { return run_umount(context, *unmounted); });

  auto check = std::make_shared<CheckCommandOptions>();
  app.command(Group::kAdministration, "check", "is everything there and undamaged?")
      .arguments("NAME", check->names, "parcels; all when none is named")
      .flag("--deep", check->deep, "read, verify and decrypt every object")
      .flag("--newest", check->newest, "the newest version only")
      .example("isr check", "heads, pages and the presence of every chunk")
      .example("isr check work --deep", "every byte of every version of work")
      .exit_codes({0, 10, 13, 14, 15, 130})
      .run([check](CommandContext& context) { return run_check(context, *check); });
}

}  // namespace isr
