// Every device has a fixed address, so that adding a disk moves no other device. A device that may be absent (the CD)
// is there but empty. The command line uses -blockdev and -device, which never guess a format or a bus.
#include "vm/command_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "base/error.h"

namespace isr {
namespace {

constexpr int kFirstDiskSlot = 8;       // slots 2..7 have the other devices
constexpr int kMostDiskThreads = 1024;  // fewer than the requests that a mount answers at once (fusefs/file_server.h)
constexpr std::size_t kMaxSerial = 20;
constexpr std::size_t kMaxName = 64;

[[noreturn]] void refuse(const std::string& why) { throw Error(ErrorKind::kUsage, why); }

/// QEMU's only escape inside an option: a comma is doubled.
std::string escaped(const std::filesystem::path& path) {
  if (!path.is_absolute()) refuse(fmt::format("{}: QEMU needs an absolute path", path.string()));
  std::string out;
  for (const char c : path.string()) out.append(c == ',' ? 2 : 1, c);
  return out;
}

bool is_plain_name(std::string_view name, std::size_t max_size) {
  return !name.empty() && name.size() <= max_size && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
  });
}

void check(const VmSettings& settings, const VmFiles& files, const std::string& accelerator) {
  check_vm_settings(settings);
  if (accelerator != "kvm" && accelerator != "tcg") refuse(fmt::format("unknown accelerator: {}", accelerator));
  if (!is_plain_name(files.name, kMaxName))
    refuse("the VM's name is empty, too long or has characters that are not allowed");
  if (files.disks.size() > kMaxDisks) refuse(fmt::format("a VM has at most {} disks", kMaxDisks));
  for (const auto& disk : files.disks)
    if (!is_plain_name(disk.serial, kMaxSerial)) refuse(fmt::format("{}: not a valid disk serial", disk.serial));
}

class Arguments {
 public:
  void add(std::string option) { out_.push_back(std::move(option)); }
  void add(std::string option, std::string value) {
    out_.push_back(std::move(option));
    out_.push_back(std::move(value));
  }
  std::vector<std::string> take() { return std::move(out_); }

 private:
  std::vector<std::string> out_;
};

void add_machine(Arguments& out, const VmSettings& settings, const VmFiles& files, const std::string& accelerator) {
  out.add("-name", fmt::format("guest={},process=isr-{}", files.name, files.name));
  out.add("-no-user-config");
  out.add("-nodefaults");
  // A guest that breaks out of QEMU cannot use fork, exec or setuid.
  out.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
  out.add("-accel", accelerator);
  out.add("-machine", fmt::format("{},memory-backend=ram,mem-merge=off,dump-guest-core=off", settings.machine));
  out.add("-cpu", settings.cpu_model + ",enforce");
  out.add("-smp", fmt::format("{0},sockets=1,cores={0},threads=1", settings.cpus));
  out.add("-m", fmt::format("size={}M", settings.memory_bytes / kMiB));
  // share=on and the capability x-ignore-shared keep this memory out of the saved state.
  out.add("-object", fmt::format("memory-backend-file,id=ram,size={}M,mem-path={},share=on,prealloc=off,"
                                 "discard-data=off,merge=off,dump=off",
                                 settings.memory_bytes / kMiB, escaped(files.memory)));
  out.add("-rtc", "base=utc,clock=host,driftfix=slew");
  out.add("-boot", "menu=off,strict=on");
  // Switches off sleep states: a guest that sleeps would look hung, and isr suspends guests itself.
  const bool q35 = settings.machine.starts_with("pc-q35-");
  const std::string_view power = q35 ? "ICH9-LPC" : "PIIX4_PM";
  out.add("-global", fmt::format("{}.disable_s3=1", power));
  out.add("-global", fmt::format("{}.disable_s4=1", power));
  out.add("-action", "reboot=reset,shutdown=poweroff,panic=none,watchdog=reset");
}

void add_devices(Arguments& out, const VmSettings& settings, const VmFiles& files) {
  out.add("-chardev", fmt::format("socket,id=qmp,fd={}", kQmpFd));
  out.add("-mon", "chardev=qmp,mode=control");
  out.add("-chardev", fmt::format("socket,id=serial0,fd={}", kSerialFd));
  out.add("-device", "isa-serial,chardev=serial0,index=0");
  out.add("-display", "none");
  out.add("-vnc", fmt::format("unix:{}", kVncSocketName));
  out.add("-device", "VGA,id=video,addr=0x2,vgamem_mb=16");
  // The network is always of type "user": its state is part of saved memory, which QEMU loads only when the same type
  // is there.
  const bool restricted = settings.network != NetworkMode::kUser || files.isolate_network;
  out.add("-netdev", fmt::format("user,id=net0,restrict={}", restricted ? "on" : "off"));
  // No boot ROM, because it would have to be the same on every host.
  out.add("-device", fmt::format("virtio-net-pci,id={},netdev=net0,addr=0x3,romfile=", kNetworkCardName));
  out.add("-device", "virtio-balloon-pci,id=balloon,addr=0x4,free-page-reporting=on");
  out.add("-device", "qemu-xhci,id=usb,addr=0x5");
  out.add("-device", "usb-tablet,id=tablet,bus=usb.0,port=1");
  out.add("-device", "usb-kbd,id=keyboard,bus=usb.0,port=2");
  out.add("-object", "rng-builtin,id=rng");
  out.add("-device", "virtio-rng-pci,id=random,rng=rng,addr=0x6");
  // The port where an agent in the guest listens, for requests after a resume.
  out.add("-chardev", fmt::format("socket,id={},fd={}", kAgentName, kAgentFd));
  out.add("-device", "virtio-serial-pci,id=ports,addr=0x7,max_ports=2");
  out.add("-device", fmt::format("virtserialport,id=agentport,bus=ports.0,nr=1,chardev={},"
                                 "name=org.qemu.guest_agent.0",
                                 kAgentName));
  out.add("-device", "pvpanic,id=panic");
  // A new identity at every start tells the guest to reseed its random numbers, because the same memory may be resumed
  // twice.
  out.add("-device", "vmgenid,id=generation,guid=auto");
}

void add_disks(Arguments& out, const VmFiles& files) {
  // Disk I/O uses threads. They never block QEMU's main loop, whatever the mount waits for, and they also work in
  // containers without io_uring. A read that waits for the repository holds a thread. So there are more threads than
  // such reads; otherwise writes would wait, too.
  out.add("-object", fmt::format("main-loop,id=main-loop,thread-pool-max={}", kMostDiskThreads));
  constexpr std::string_view kCommon = "file.driver=file,file.locking=on,file.aio=threads";
  for (std::size_t i = 0; i < files.disks.size(); ++i) {
    const auto& disk = files.disks[i];
    const std::string_view access = disk.read_only ? "read-only=on" : "read-only=off,discard=unmap,detect-zeroes=unmap";
    out.add("-blockdev",
            fmt::format("driver=raw,node-name=d{},{},file.filename={},cache.direct=on,file.cache.direct=on,{}", i,
                        kCommon, escaped(disk.file), access));
    out.add("-device",
            fmt::format("virtio-blk-pci,id=disk{0},drive=d{0},serial={1},addr={2:#x},bootindex={3},write-cache=on,"
                        "werror=stop,rerror=stop",
                        i, disk.serial, kFirstDiskSlot + i, i + 1));
  }
  std::string drive;
  if (files.cdrom) {
    out.add("-blockdev",
            fmt::format("driver=raw,node-name=cd0,{},file.filename={},read-only=on", kCommon, escaped(*files.cdrom)));
    drive = fmt::format(",drive=cd0,bootindex={}", kMaxDisks + 1);
  }
  out.add("-device", "ide-cd,id=cdrom,bus=ide.1,unit=0" + drive);
}

}  // namespace

std::vector<std::string> qemu_arguments(const VmSettings& settings, const VmFiles& files,
                                        const std::string& accelerator, VmBegin begin) {
  check(settings, files, accelerator);
  Arguments out;
  add_machine(out, settings, files, accelerator);
  add_devices(out, settings, files);
  add_disks(out, files);
  out.add("-S");
  if (begin == VmBegin::kIncoming) out.add("-incoming", "defer");
  return out.take();
}

}  // namespace isr
