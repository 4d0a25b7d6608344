#include "repository/blob_store_suite.h"
#include "repository/chain_host.h"
#include "repository/sequence.h"
#include "repository/signed_text.h"
#include "support/memory_store.h"

namespace isr {

using test::Host;
using test::kId;
using test::kind_thrown_by;
using test::make_head;
using test::MemoryStore;
using test::owner;
using test::text_bytes;
using Listing = MemoryStore::Listing;

namespace {

/// Blobs that may lie under the number behind version 3 and are no head.
std::vector<Bytes> all_junk(const StoredHead& third) {
  Head forged;
  forged.chain = kId;
  forged.n = 4;
  forged.prev = third.hash;
  forged.host = "desk-42";
  return {Bytes{}, text_bytes("junk"), test::flip_bit(third.blob, 99), third.blob,
          encode_head(forged, signing_key_from_seed({.value = {9}}))};
}

}  // namespace

TEST_CASE("junk uses up its number: a host that has seen the version before it stops there", "[repository]") {
  const auto store = std::make_shared<MemoryStore>(GENERATE(Listing::kYes, Listing::kNo));
  Host host(store);
  host.publish_up_to(3);
  for (const Bytes& junk : all_junk(*host.chain.newest())) {
    store->overwrite(head_name(kId, 4), junk);
    const auto newest = host.chain.newest();
    CHECK(newest->head.n == 3);
    CHECK((newest->junk == std::vector<Sha256>{head_hash(junk)}));
    CHECK(host.trust->seen(kId)->n == 3);
    CHECK(kind_thrown_by([&] { host.chain.next(newest); }) == ErrorKind::kHistory);
    CHECK(kind_thrown_by([&] { host.chain.publish(4, make_head(4, newest->hash)); }) == ErrorKind::kHistory);
    Head skips;
    skips.chain = kId;
    skips.n = 5;
    skips.prev = newest->hash;
    skips.skipped = newest->junk;
    skips.host = "desk-42";
    CHECK(kind_thrown_by([&] { host.chain.publish(5, encode_head(skips, owner())); }) == ErrorKind::kHistory);
    Host fresh(store);
    CHECK(fresh.newest_kind() == ErrorKind::kHistory);
    CHECK_FALSE(fresh.trust->seen(kId).has_value());
  }
}

TEST_CASE("a damaged head that was seen is reported by name", "[repository]") {
  const auto store = std::make_shared<MemoryStore>();
  Host host(store);
  host.publish_up_to(3);
  store->overwrite(head_name(kId, 3), test::flip_bit(store->get(head_name(kId, 3))->bytes, 99));
  CHECK(host.newest_kind() == ErrorKind::kCorrupt);
  CHECK(host.trust->seen(kId)->n == 3);
}

TEST_CASE("after accept-older the next version comes after the junk and names it", "[repository]") {
  const auto store = std::make_shared<MemoryStore>();
  Host host(store);
  Host other(store);
  host.publish_up_to(3);
  CHECK(other.chain.newest()->head.n == 3);
  store->put_new(head_name(kId, 4), text_bytes("junk"));
  store->put_new(head_name(kId, 5), text_bytes("more"));
  const StoredHead third = host.chain.accept_older(3, "junk");
  CHECK(third.junk.size() == 2);
  const auto publish = [&] { return host.publish_next(); };

  SECTION("and every host passes it") {
    const auto sixth = publish();
    REQUIRE(sixth.has_value());
    CHECK(sixth->head.n == 6);
    CHECK((sixth->head.prev == third.hash));
    CHECK(publish()->head.n == 7);
    const auto newest = other.chain.newest();
    CHECK(newest->head.n == 7);
    CHECK(newest->junk.empty());
    CHECK((other.chain.ancestor(*newest, 3)->hash == third.hash));
    CHECK_FALSE(other.chain.ancestor(*newest, 5).has_value());
    Host fresh(store);
    CHECK(fresh.chain.newest()->head.n == 7);
  }
  SECTION("but not when the store shows other junk than it names") {
    publish();
    store->overwrite(head_name(kId, 4), text_bytes("other"));
    CHECK(other.newest_kind() == ErrorKind::kHistory);
  }
  SECTION("more junk must be accepted separately") {
    store->put_new(head_name(kId, 6), text_bytes("even more"));
    CHECK(kind_thrown_by(publish) == ErrorKind::kHistory);
    host.chain.accept_older(3, "again");
    CHECK(publish()->head.n == 7);
  }
  SECTION("a host that has seen the version that the junk replaced refuses") {
    const auto first = std::make_shared<MemoryStore>();
    first->set_blobs(store->blobs());
    first->overwrite(head_name(kId, 4), make_head(4, third.hash, "laptop"));
    first->remove(head_name(kId, 5));
    const auto world = std::make_shared<MemoryStore>();
    Host laptop(world);
    world->set_blobs(first->blobs());
    CHECK(laptop.chain.newest()->head.n == 4);
    publish();
    world->set_blobs(store->blobs());
    CHECK(kind_thrown_by([&] { laptop.chain.newest(); }) == ErrorKind::kCorrupt);  // what it has seen is junk now
    world->overwrite(head_name(kId, 4), first->get(head_name(kId, 4))->bytes);
    CHECK(laptop.newest_kind() == ErrorKind::kHistory);
    CHECK(other.chain.newest()->head.n == 6);
  }
}

TEST_CASE("a store that has a blob under every number is given up soon", "[repository]") {
  class EndlessStore : public MemoryStore {
   public:
    using MemoryStore::MemoryStore;
    std::optional<Blob> get(std::string_view name, std::optional<ByteRange> range, std::stop_token stop) override {
      auto blob = MemoryStore::get(name, range, stop);
      return blob ? blob : Blob{.bytes = text_bytes("something"), .age = {}};
    }
  };
  const auto honest = std::make_shared<MemoryStore>();
  const auto store = std::make_shared<EndlessStore>(GENERATE(Listing::kYes, Listing::kNo));
  Host host(store);
  Host writer(honest);
  writer.publish_up_to(3);
  store->set_blobs(honest->blobs());
  CHECK(host.newest_kind() == ErrorKind::kCorrupt);
  host.trust->accept(kId, *writer.trust->seen(kId));
  CHECK(host.newest_kind() == ErrorKind::kCorrupt);
  CHECK(host.trust->seen(kId)->n == 3);
}

TEST_CASE("a store with a list that is too long, or with every name, is asked only a few times", "[repository]") {
  class LyingStore : public MemoryStore {
   public:
    using MemoryStore::MemoryStore;
    std::optional<ListPage> list_page(std::string_view prefix, std::string_view after, std::stop_token stop) override {
      if (listing == Listing::kTruth) return MemoryStore::list_page(prefix, after, stop);
      ++pages;
      ListPage page{.names = {}, .more = true};
      const std::uint64_t first = after.empty() ? 1 : *sequence_number(kId + "/heads", after) + 1;
      const std::uint64_t count = listing == Listing::kSmallPages ? 1 : 10'000;
      for (std::uint64_t n = first; n < first + count; ++n) page.names.push_back(head_name(kId, n));
      return page;
    }
    std::optional<std::uint64_t> stat(std::string_view name, std::stop_token stop) override {
      ++stats;
      return has_everything ? 9 : MemoryStore::stat(name, stop);
    }
    enum class Listing { kTruth, kSmallPages, kLargePages } listing = Listing::kTruth;
    bool has_everything = false;
    int pages = 0;
    int stats = 0;
  };
  const auto store = std::make_shared<LyingStore>();
  Host host(store);
  host.publish_up_to(5);
  SECTION("a long list is not read to its end") {
    store->listing = GENERATE(LyingStore::Listing::kSmallPages, LyingStore::Listing::kLargePages);
    CHECK(kind_thrown_by([&] { store->list(kId + "/heads/"); }) == ErrorKind::kUnsupported);
    CHECK(newest_in_sequence(*store, kId + "/heads") == 5);
    CHECK((newest_numbers(*store, kId + "/heads", 3) == std::vector<std::uint64_t>{5, 4, 3}));
    CHECK(Host(store).chain.newest()->head.n == 5);
    store->remove(kId + "/latest");
    CHECK(Host(store).newest_kind() == ErrorKind::kCorrupt);  // it lists what it does not have
    CHECK(host.chain.newest()->head.n == 5);
  }
  SECTION("a list that lacks existing names") {
    store->has_everything = true;
    CHECK(newest_numbers(*store, kId + "/heads", 100).back() == 1);
  }
  SECTION("no list, and false answers") {
    store->has_everything = true;
    store->listing = GENERATE(LyingStore::Listing::kSmallPages, LyingStore::Listing::kLargePages);
    newest_in_sequence(*store, kId + "/heads");
  }
  SECTION("a version that was seen and is gone") {
    store->remove(head_name(kId, 5));
    store->has_everything = true;
    CHECK(kind_thrown_by([&] { host.chain.newest(); }) == ErrorKind::kHistory);
  }
  CHECK(store->stats < 400);
  CHECK(store->pages < 1200);
}

}  // namespace isr
