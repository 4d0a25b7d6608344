#include "session/inspect.h"

#include <fmt/format.h>
#include <signal.h>

#include <nlohmann/json.hpp>
#include <set>

#include "base/log.h"
#include "base/thread_pool.h"
#include "session/background.h"
#include "session/daemon.h"
#include "session/machine.h"

namespace isr {
namespace {

using nlohmann::json;

constexpr unsigned kCheckThreads = 8;

std::string reader_stats(const SourceStats& stats, const std::vector<std::shared_ptr<Image>>& images) {
  json out{{"schema", 1},
           {"sources",
            {{"cache_hits", stats.cache_hits.load()},
             {"repository_fetches", stats.repository_fetches.load()},
             {"repository_bytes", stats.repository_bytes.load()},
             {"corrupt_refused", stats.corrupt_refused.load()},
             {"waiting", stats.waiting.load()}}},
           {"images", json::array()}};
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
  // Ends with the mount, or with a signal.
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

class Checker {
 public:
  Checker(Account& account, const ParcelEntry& parcel, const CheckOptions& options, std::stop_token stop,
          const ProgressFn& progress)
      : account_(account), parcel_(parcel), options_(options), stop_(std::move(stop)), progress_(progress) {
    StackParts parts;
    parts.repository = account.store;
    reader_ = std::make_shared<ChunkReader>(open_stack(parts, stats_), ReaderOptions{8U << 20U, 512, 1});
  }

  CheckReport run() {
    LoadedVersion version = load_version(account_, parcel_);
    for (;;) {
      ++report_.versions;
      check_version(version);
      if (options_.newest_only) break;
      auto before = load_before(version);
      if (!before) break;
      version = std::move(*before);
    }
    return std::move(report_);
  }

 private:
  std::optional<LoadedVersion> load_before(const LoadedVersion& version) {
    try {
      auto head = account_.chain(parcel_.chain()).before(version.head);
      if (!head) return std::nullopt;
      ParcelVersion before = open_version(parcel_, head->head);
      return LoadedVersion{std::move(*head), std::move(before)};
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::kCancelled) throw;
      found(fmt::format("before version {}", version.head.head.n), error.what());
    }
    return std::nullopt;
  }

  void found(const std::string& where, const std::string& problem) { report_.findings.push_back({where, problem}); }

  void check_version(const LoadedVersion& version) {
    for (const VersionImage& image : version.version.images) {
      if (image.tree.root.is_zero()) continue;
      const std::string where = fmt::format("version {}, {}", version.head.head.n, image.name);
      check_page(where, image.tree.root, tree_levels(image.tree.size) - 1);
    }
  }

  void check_page(const std::string& where, const ChunkRef& ref, unsigned level) {
    if (stop_.stop_requested()) throw Error(ErrorKind::kCancelled, "interrupted");
    if (!seen_.insert(ref.cid).second) return;
    PageData page;
    try {
      page = reader_->read_page(ref, Priority::kPrefetch);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kCorrupt) throw;
      found(where, error.what());
      return;
    }
    ++report_.pages;
    std::vector<ChunkRef> chunks;
    for (const ChunkRef& child : *page) {
      if (child.is_zero()) continue;
      if (level > 0) {
        check_page(where, child, level - 1);
      } else if (seen_.insert(child.cid).second) {
        chunks.push_back(child);
      }
    }
    check_chunks(where, chunks);
  }

  void check_chunks(const std::string& where, const std::vector<ChunkRef>& chunks) {
    std::vector<std::string> problems(chunks.size());
    parallel_for(chunks.size(), kCheckThreads, [&](std::size_t i) {
      const ChunkRef& ref = chunks[i];
      try {
        if (options_.deep) {
          reader_->read_chunk(ref, Priority::kPrefetch);
          return;
        }
        const auto size = account_.store->stat(object_name(ref.cid), stop_);
        if (!size) problems[i] = fmt::format("object {} is missing", to_hex(ref.cid.view()));
        if (size && *size != ref.length) {
          problems[i] = fmt::format("object {} has {} bytes instead of {}", to_hex(ref.cid.view()), *size, ref.length);
        }
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::kCorrupt) throw;
        problems[i] = error.what();
      }
    });
    report_.chunks += chunks.size();
    for (const std::string& problem : problems) {
      if (!problem.empty()) found(where, problem);
    }
    if (progress_) progress_("check", report_.chunks * kChunkSize, 0);
  }

  Account& account_;
  const ParcelEntry& parcel_;
  CheckOptions options_;
  std::stop_token stop_;
  const ProgressFn& progress_;
  SourceStats stats_;
  std::shared_ptr<ChunkReader> reader_;
  std::set<Cid> seen_;
  CheckReport report_;
};

}  // namespace

void mount_version(const Account& account, const ParcelEntry& parcel, const VersionChoice& choice,
                   const fs::path& directory) {
  const json extra{{"version", choice.number.value_or(0)},
                   {"fork", choice.fork},
                   {"directory", encode_path(fs::absolute(directory).lexically_normal())}};
  make_private_directory(account.state_directory);
  start_background({kMountDaemonArgument}, serialise_handover(account, parcel, extra.dump()),
                   account.state_directory / "mount.log");
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

CheckReport check_parcel(Account& account, const ParcelEntry& parcel, const CheckOptions& options, std::stop_token stop,
                         const ProgressFn& progress) {
  account.online("checking " + parcel.name);
  return Checker(account, parcel, options, std::move(stop), progress).run();
}

}  // namespace isr
