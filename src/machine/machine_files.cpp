#include "machine/machine_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "base/file.h"

namespace isr {
namespace {

constexpr std::size_t kShownId = 12;
constexpr std::size_t kLongestSerial = 20;  // the limit of virtio-blk

std::string file_name(const Image& disk) { return disk.name() + ".raw"; }

std::string disk_serial(const std::string& name) {
  std::string serial;
  for (const char c : name) serial += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return serial.substr(0, kLongestSerial);
}

std::string shown_id(const std::string& parcel_id) { return parcel_id.substr(0, kShownId); }

}  // namespace

fs::path disk_file(const fs::path& directory, const Image& disk) { return directory / file_name(disk); }

std::vector<MountedFile> mounted_disks(const std::vector<std::shared_ptr<Image>>& disks) {
  std::vector<MountedFile> files;
  for (const auto& disk : disks) files.push_back({file_name(*disk), disk});
  return files;
}

MountedFile mounted_memory(std::shared_ptr<Image> memory, std::shared_ptr<Endurance> endurance) {
  return {kMemoryFileName, std::move(memory), std::move(endurance)};
}

VmFiles vm_files(const std::string& parcel_id, const std::vector<std::shared_ptr<Image>>& disks,
                 const fs::path& mount) {
  VmFiles files;
  files.name = shown_id(parcel_id);
  files.memory = mount / kMemoryFileName;
  for (const auto& disk : disks) files.disks.push_back({disk_file(mount, *disk), disk_serial(disk->name()), false});
  return files;
}

std::string mount_source(const std::string& parcel_id) { return "isr:" + shown_id(parcel_id); }

void write_back(const fs::path& file) {
  const UniqueFd fd = open_file(file, O_RDWR);
  if (::fsync(fd.get()) != 0) throw_errno(fmt::format("cannot write back {}", file.string()), errno);
}

}  // namespace isr
