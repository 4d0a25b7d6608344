#pragma once

#include <functional>

#include "chunkstore/stack.h"
#include "support/bytes.h"
#include "support/memory_source.h"

/// What the tests of layers around sources share.
namespace isr::test {

struct LayerSample {
  explicit LayerSample(std::uint64_t seed = 7) : object(test::random_bytes(5000, seed)), cid(cid_of(object)) {}
  Bytes object;
  Cid cid;
};

inline std::optional<Bytes> ask(const SourcePtr& source, const Cid& cid, std::stop_token stop = {}) {
  return source->fetch(cid, Priority::kGuest, std::move(stop));
}

inline std::shared_ptr<MemorySource> source_with(const LayerSample& sample, Bytes bytes, std::string name = "memory") {
  auto source = std::make_shared<MemorySource>(std::move(name));
  source->store(sample.cid, std::move(bytes));
  return source;
}

/// The last one is the authority.
inline SourcePtr tiers_of(std::vector<SourcePtr> sources, SourceStats& stats) {
  std::vector<Tier> tiers;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    tiers.push_back({std::to_string(i), sources[i], i + 1 == sources.size() ? Trust::kAuthority : Trust::kClaimed});
  }
  return make_tiered(std::move(tiers), stats);
}

inline SourcePtr cached(std::shared_ptr<PackStore> cache, SourcePtr origin, SourceStats& stats) {
  return make_tiered({cache_tier(std::move(cache)), {"origin", std::move(origin), Trust::kAuthority}}, stats);
}

inline std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace isr::test
