#include "daemon/daemon_messages.h"

#include <fmt/format.h>
#include <unistd.h>

#include "base/error.h"
#include "daemon/handover.h"
#include "daemon/session_daemon.h"
#include "vm/settings.h"

namespace isr {

using nlohmann::json;

BootOptions parse_boot_options(const json& request, const std::string& memory) {
  BootOptions options;
  options.network = find_network_mode(request.value("network", ""));
  options.isolate_network = request.value("isolate_network", false);
  options.accelerator = request.value("accelerator", "auto");
  options.memory = memory;
  options.prefetch = parse_prefetch(request.value("prefetch", "all"));
  if (request.contains("cdrom")) options.cdrom = decode_path(request.at("cdrom").get<std::string>());
  return options;
}

json describe_boot(bool resumed, const BootOptions& options, const Machine& machine, const Session& session) {
  return {{"resumed", resumed},
          {"network", to_name(machine.network())},
          {"accelerator", machine.accelerator().name},
          {"accelerator_reason", machine.accelerator().reason},
          {"fetches_memory", resumed && options.prefetch == Prefetch::kAll},
          {"boot_pack_pages", session.boot_pack_pages()},
          {"mount", encode_path(machine.directory())}};
}

json describe_session(const Session& session, const Machine& machine) {
  json answer = session.stats();
  answer["mount"] = encode_path(machine.directory());
  answer["daemon_pid"] = ::getpid();
  if (machine.running()) {
    answer["changed_bytes"] = answer.at("changed_bytes").get<std::uint64_t>() + machine.changed_bytes_in_qemu();
    answer["vm"] = machine.stats();
  }
  return answer;
}

json describe_publish(const PublishResult& result) {
  return {{"version", result.version},
          {"unchanged", result.unchanged},
          {"fork", result.fork},
          {"lock_lost", result.is_lock_lost},
          {"uploaded", true},
          {"uploaded_bytes", result.uploaded_bytes},
          {"uploaded_objects", result.uploaded_objects}};
}

Error still_running(const std::string& parcel, std::chrono::seconds timeout) {
  return {ErrorKind::kVm,
          fmt::format("{} did not shut down within {} s; it is still running", parcel, timeout.count()),
          {fmt::format("isr stop {} --kill      switches it off when it does not", parcel),
           fmt::format("isr suspend {}          keeps it as it is", parcel)}};
}

}  // namespace isr
