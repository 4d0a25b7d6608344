#include "daemon/mount_daemon.h"

#include <fmt/format.h>
#include <signal.h>

#include <nlohmann/json.hpp>

#include "account/open_account.h"
#include "account/version_reader.h"
#include "base/log.h"
#include "daemon/background.h"
#include "daemon/handover.h"
#include "daemon/protocol.h"
#include "daemon/session_daemon.h"
#include "fusefs/mount.h"
#include "machine/machine_files.h"

namespace isr {
namespace {

using nlohmann::json;

std::string reader_stats(const SourceStats& stats, const std::vector<std::shared_ptr<Image>>& images) {
  json out{{"schema", 1}, {"sources", encode_stats(fetch_stats(stats))}, {"images", json::array()}};
  for (const auto& image : images) {
    out["images"].push_back({{"name", image->name()},
                             {"size", image->size()},
                             {"read_bytes", image->counters().read_bytes.load()},
                             {"read_errors", image->counters().read_errors.load()}});
  }
  return out.dump(2) + "\n";
}

void serve_mount(const Handover& handover) {
  const json extra = json::parse(handover.extra);
  const fs::path directory = decode_path(extra.at("directory").get<std::string>());
  Account account = open_account(handover, nullptr);
  VersionChoice choice;
  choice.fork = extra.at("fork").get<std::string>();
  if (choice.fork.empty()) choice.number = extra.at("version").get<std::uint64_t>();
  const LoadedVersion loaded = load_version(account, handover.parcel, choice);
  VersionReader reader(account, Unreachable::kFail);
  std::vector<MountedFile> files;
  std::vector<std::shared_ptr<Image>> images;
  for (const VersionImage& image : loaded.version.images) {
    images.push_back(reader.open(image));
    files.push_back({image.name + ".raw", images.back()});
  }
  MountOptions options;
  options.immutable = true;
  options.source_name = fmt::format("{}@{}", mount_source(handover.parcel.id), loaded.head.head.n);
  auto mount = make_mount(
      directory, std::move(files), [&] { return reader_stats(reader.stats, images); }, options);
  mount->start();
  // Unmounts on a signal. Ends once the mount has ended.
  std::jthread signals([&](const std::stop_token& stop) {
    sigset_t wanted;
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGTERM);
    sigaddset(&wanted, SIGINT);
    const timespec tick{0, 200'000'000};
    while (!stop.stop_requested() && !mount->ended()) {
      if (sigtimedwait(&wanted, nullptr, &tick) > 0) break;
    }
    reader.reader->cancel();
    unmount(directory);
  });
  background_ready();
  mount->wait({});
  signals.request_stop();
}

}  // namespace

void mount_version(const Account& account, const ParcelEntry& parcel, const VersionChoice& choice,
                   const fs::path& directory) {
  const json extra{{"version", choice.number.value_or(0)},
                   {"fork", choice.fork},
                   {"directory", encode_path(fs::absolute(directory).lexically_normal())}};
  make_private_directory(account.host.state_directory);
  start_background({kMountDaemonArgument}, serialise_handover(account, parcel, extra.dump()),
                   account.host.state_directory / "mount.log");
}

int mount_daemon_main() {
  block_signals();
  try {
    serve_mount(parse_handover(read_background_secret()));
    return 0;
  } catch (const std::exception& error) {
    log::error("{}", error.what());
    background_failed(error);
    return 1;
  }
}

}  // namespace isr
