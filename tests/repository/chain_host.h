#pragma once

#include "base/file.h"
#include "repository/blob_store_suite.h"
#include "repository/chain.h"
#include "support/memory_store.h"

namespace isr::test {

inline const std::string kId = "parcels/4f";

inline const SigningKey& owner() {
  static const SigningKey key = signing_key_from_seed({.value = {1, 2, 3}});
  return key;
}

inline Bytes make_head(const HeadPlace& place, const std::string& host = "desk-42", std::uint32_t epoch = 1) {
  Head head;
  head.chain = kId;
  head.n = place.n;
  head.prev = place.prev;
  head.skipped = place.skipped;
  head.time = WallTime(std::chrono::seconds(1'700'000'000 + place.n));
  head.host = host;
  head.epoch = epoch;
  head.sealed = text_bytes("sealed");
  return encode_head(head, owner());
}

inline Bytes make_head(std::uint64_t n, const Sha256& prev, const std::string& host = "desk-42",
                       std::uint32_t epoch = 1) {
  return make_head(HeadPlace{n, prev}, host, epoch);
}

/// A host with its own memory of what it has seen.
struct Host {
  explicit Host(BlobStorePtr store)
      : trust(std::make_shared<TrustStore>(directory.path() / "trust", Key{.value = {4}})),
        chain(store, kId, owner().public_key, trust) {}

  /// Publishes versions up to n on top of the newest.
  void publish_up_to(std::uint64_t n) {
    auto newest = chain.newest();
    for (std::uint64_t at = newest ? newest->head.n + 1 : 1; at <= n; ++at) {
      const Bytes blob = make_head(at, at == 1 ? Sha256{} : newest->hash);
      newest = chain.publish(at, blob);
      REQUIRE(newest.has_value());
    }
  }
  /// Publishes the next version; nullopt: another host was first.
  std::optional<StoredHead> publish_next(const std::string& host = "desk-42") {
    const HeadPlace place = chain.next(chain.newest());
    return chain.publish(place.n, make_head(place, host));
  }
  ErrorKind newest_kind() {
    return kind_thrown_by([&] { chain.newest(); });
  }

  TempDirectory directory;
  std::shared_ptr<TrustStore> trust;
  Chain chain;
};

}  // namespace isr::test
