#include "transfer/check.h"

#include <fmt/format.h>

#include <set>

#include "account/parcel_version.h"
#include "base/thread_pool.h"
#include "chunkstore/stack.h"
#include "image/chunk_reader.h"
#include "image/patches.h"

namespace isr {
namespace {

constexpr unsigned kCheckThreads = 8;

class Checker {
 public:
  Checker(Account& account, const ParcelEntry& parcel, const CheckOptions& options, std::stop_token stop,
          const ProgressFn& progress)
      : account_(account), parcel_(parcel), options_(options), stop_(std::move(stop)), progress_(progress) {
    reader_ = std::make_shared<ChunkReader>(open_stack({repository_tier(account.remote.store, stats_.link)}, stats_),
                                            ReaderOptions{8U << 20U, 512, 1});
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
      const std::string where = fmt::format("version {}, {}", version.head.head.n, image.name);
      check_tree(where, image.content.tree);
      for (const TreeRoot& patch : image.content.patches) check_tree(where + ", a patch", patch);
      if (options_.deep) check_tables(where, image.content);
    }
  }

  void check_tree(const std::string& where, const TreeRoot& tree) {
    if (!tree.root.is_zero()) check_page(where, tree.root, tree_levels(tree.size) - 1);
  }

  void check_tables(const std::string& where, const PatchedTree& content) {
    try {
      BaseContent(content).index(*reader_, Priority::kPrefetch, stop_);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kCorrupt) throw;
      found(where, error.what());
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
        const auto size = account_.remote.store->stat(object_name(ref.cid), stop_);
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

CheckReport check_parcel(Account& account, const ParcelEntry& parcel, const CheckOptions& options, std::stop_token stop,
                         const ProgressFn& progress) {
  account.remote.online("checking " + parcel.name);
  return Checker(account, parcel, options, std::move(stop), progress).run();
}

}  // namespace isr
