// freeze → seal → absorb → upload → check the lock → publish → read back → adopt.
//
// What is sealed is absorbed at once: sending it needs no overlay any more, and the journal is free of it however
// long the upload takes. Settling goes on beside all of it. Only the last step forgets anything here. The state
// file says before the publish which head it will be, so that after a crash the same head in the
// repository is known to be ours.
//
// A checkpoint of a running machine freezes its memory in two places: what it
// changed is in the scratch layer, what was changed before it started in the
// journal overlay below, which absorbs both. Everything is dropped in the order in which a reader that
// comes between cannot meet an old chunk: scratch after the overlay below has it, that after the new base has it.

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <thread>

#include "base/log.h"
#include "base/sleep.h"
#include "session/session.h"
#include "session/session_part.h"

namespace isr {
namespace {

bool same_tree(const VersionImage* a, const VersionImage* b) {
  if (!a || !b) return a == b;
  return a->tree.size == b->tree.size && a->tree.root == b->tree.root;
}

constexpr int kSettleNice = 10;
constexpr std::chrono::milliseconds kSettlePeriod{200};
constexpr int kLateAnswers = 4;          // heads of ours that turn up while we publish
constexpr std::size_t kMaxPending = 64;  // publishes in a row without an answer

/// True when both describe one machine; a boot pack only helps to resume it and is not compared.
bool same_content(const ParcelVersion& a, const ParcelVersion& b) {
  const auto is_in = [](const ParcelVersion& in) {
    return [&in](const VersionImage& image) {
      return !rules_of(image.role).is_content || same_tree(&image, in.find(image.name));
    };
  };
  return a.vm == b.vm && std::all_of(a.images.begin(), a.images.end(), is_in(b)) &&
         std::all_of(b.images.begin(), b.images.end(), is_in(a));
}

}  // namespace

/// The guest writes on, however long an upload takes. No other thread settles meanwhile, or changes
/// which images there are. Ends a step that is going on, also one that fetches. Without a thread to spare
/// the journal grows until the publish has ended.
class Session::Settling {
 public:
  explicit Settling(Session& session) {
    try {
      thread_ = std::jthread([&session](const std::stop_token& stop) { settle(session, stop); });
    } catch (const std::system_error& error) {
      log::warn("nothing is settled during this publish: {}", error.what());
    }
  }
  void end() { thread_ = {}; }

 private:
  static void settle(Session& session, const std::stop_token& stop) {
    ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kSettleNice);
    while (!stop.stop_requested()) {
      try {
        session.settle_if_due(stop);
      } catch (const std::exception& error) {
        if (!stop.stop_requested()) log::warn("settling: {}", error.what());
      }
      sleep_unless_stopped(kSettlePeriod, stop);
    }
  }

  std::jthread thread_;
};

/// It is in the repository, and its version is the base now: what it covers is void.
void Session::rebase_on(const PendingPublish& pending, SessionState& state, const ParcelVersion& version) {
  for (SessionImage& image : state.images) {
    const auto it = pending.void_below.find(image.number);
    if (it == pending.void_below.end()) continue;  // not published, or begun anew since
    image.image.tree = version.find(image.image.name)->tree;
    image.void_below = std::max(image.void_below, it->second);
  }
  state.base = pending.n;
  state.base_hash = pending.hash;
  state.content = state.base;
  state.base_version = version;
  state.pending.clear();
  state.upload_begun = false;
}

/// The publish without an answer that made this head; nullptr: none.
const PendingPublish* Session::find_pending(const StoredHead& head) const {
  const auto it = std::find_if(state_.pending.begin(), state_.pending.end(), [&](const PendingPublish& pending) {
    return pending.n == head.head.n && pending.hash == head.hash;
  });
  return it == state_.pending.end() ? nullptr : &*it;
}

namespace {

/// The history between the session's base and the newest version is refused.
Error with_ways_out(const Error& refusal, const std::string& parcel) {
  return {ErrorKind::kHistory,
          refusal.what(),
          {fmt::format("the work stays in this session; isr stat {} says where its disks are, to copy them", parcel),
           fmt::format("to give it up    isr discard {0}, then isr checkin {0}", parcel)}};
}

}  // namespace

/// A publish of ours whose answer was lost may have happened, and others may have published behind it.
void Session::resolve_pending(Chain& chain, const std::optional<StoredHead>& newest) {
  if (!newest) return;
  for (const PendingPublish& pending : state_.pending) {
    std::optional<StoredHead> head;
    try {
      head = chain.ancestor(*newest, pending.n);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kHistory) throw;
      throw with_ways_out(error, parcel_.name);
    }
    if (!head || head->hash != pending.hash) continue;
    const ParcelVersion version = open_version(parcel_, head->head);
    chain.make_durable(*head);  // before what it holds is dropped here
    change_state([&, made = pending](SessionState& next) { rebase_on(made, next, version); });
    log::info("version {} had been published before the interruption", state_.base);
    return;
  }
}

/// Before the replay: when a publish that a crash interrupted did happen, what it covers is void. Without an answer
/// the session opens as it does offline, so that the work can be reached; publish() asks again.
void Session::resolve_pending() {
  if (state_.pending.empty() || account_.offline()) return;
  try {
    Chain chain = account_.chain(parcel_.chain());
    resolve_pending(chain, chain.newest());
  } catch (const Error& error) {
    const ErrorKind kind = error.kind();
    if (kind != ErrorKind::kHistory && kind != ErrorKind::kCorrupt && kind != ErrorKind::kTransient) throw;
    log::warn("it is not known whether the last publish happened; the next one asks again: {}", error.what());
  }
}

void Session::freeze(const PublishOptions& options, Publication& publication) {
  for (const SessionImage& image : state_.images) {
    const ImageRole role = image.image.role;
    const bool wanted = role == ImageRole::kMemory   ? options.memory || options.checkpoint
                        : role == ImageRole::kDevice ? options.memory
                                                     : is_disk(role);
    if (wanted) publication.parts.push_back(&part(image.image.name));
  }
  const auto freeze_part = [&](Part* part) { publication.void_below[part->number] = part->overlay->freeze(); };
  const auto freeze = [&] {
    publication.disk_writes = disk_writes();  // before: what is written meanwhile counts as not covered
    for (Part* part : publication.parts) freeze_part(part);
    if (!options.checkpoint) return;
    scratch_->freeze();
    publication.scratch_is_frozen = true;
  };
  if (options.checkpoint) {
    MachineMoment moment = options.checkpoint(freeze);
    publication.memory = std::move(moment.memory);
    publication.version.stamp = moment.stamp;
    write_device_state(moment.device_state);
    publication.parts.push_back(&part("device"));
    freeze_part(publication.parts.back());
  } else {
    freeze();
    if (options.memory) publication.version.stamp = state_.stamp;
  }
  journal_->sync();
  publication.version.vm = state_.vm;
  publication.version.message = options.message;
  publication.version.copy_of = options.copy_of;
}

void Session::seal(Publication& publication) {
  for (Part* part : publication.parts) {
    VersionImage image = state_.find(part->name)->image;
    const bool in_scratch = image.role == ImageRole::kMemory && publication.scratch_is_frozen;
    FrozenChanges& frozen = in_scratch ? static_cast<FrozenChanges&>(*scratch_) : *part->overlay;
    SealContext context = seal_context();
    context.sweep = &sweep_;
    const SealedImage sealed = seal_frozen(context, frozen, image.tree);
    if (in_scratch) check_memory(publication, image.tree, sealed.root);
    part->overlay->absorb_frozen(sealed.chunks, publication.void_below.at(part->number));
    if (in_scratch) scratch_->drop_frozen();
    image.tree = sealed.root;
    publication.version.images.push_back(std::move(image));
    for (const ClearRef& object : sealed.new_objects) publication.objects.emplace(object.cid, object.length);
  }
}

/// The guest, which goes on, has the right bytes when these are not.
void Session::check_memory(const Publication& publication, const TreeRoot& before, const TreeRoot& after) {
  const MemoryCheck check(publication.memory, live_->touched());
  const JournalOverlay& below = *part("memory").overlay;
  for_each_difference(*reader_, before, after, [&](std::uint64_t chunk, const ChunkRef&, const ChunkRef& ref) {
    // An earlier run left this below: a sealed chunk, or bytes where the rest could not be fetched.
    if (below.frozen_replaced(chunk) != ref && !below.frozen_has_bytes(chunk)) check.require_change(chunk);
  });
  Image sealed("memory", after, local_reader(), nullptr);
  check.compare(sealed);
}

/// After a failure; does nothing with what has been absorbed.
void Session::thaw(const Publication& publication) {
  for (Part* part : publication.parts) part->overlay->thaw();
  if (!scratch_) return;
  try {
    scratch_->thaw();
  } catch (const Error& error) {
    log::warn("{}", error.what());  // all of it can be read, and the next freeze goes on with it
  }
}

/// After an interruption most objects were sent before it.
Presence Session::begin_upload() {
  if (state_.upload_begun) return Presence::kLikely;
  change_state([](SessionState& next) { next.upload_begun = true; });
  return Presence::kUnknown;
}

void Session::upload(const std::map<Cid, std::uint32_t>& objects, Presence presence, std::string_view step,
                     const ProgressFn& progress, const std::stop_token& stop) {
  Uploader uploader(account_.store, {.bytes_per_second = account_.upload_limit(), .stop = stop}, upload_counters_);
  std::uint64_t total = 0;
  for (const auto& [cid, length] : objects) total += length;
  std::uint64_t done = 0;
  for (const auto& [object_cid, length] : objects) {
    if (progress) progress(step, done, total);
    done += length;
    const Cid cid = object_cid;
    const auto load = [this, cid] {
      auto object = settled_->fetch(cid, Priority::kUpload, {});
      if (!object) {
        // Settled long ago and published under another version, or damaged here.
        object = cache_->fetch(cid, Priority::kUpload, {});
      }
      if (!object || cid_of(*object) != cid) {
        throw Error(ErrorKind::kCorrupt, fmt::format("object {} of this session is damaged or missing in {}",
                                                     to_hex(cid.view()), settled_->describe()));
      }
      return std::move(*object);
    };
    uploader.put_later(cid, length, load, presence);
  }
  uploader.finish();  // every put was answered "created" or "exists": all are present
  if (progress) progress(step, total, total);
}

void Session::adopt(const Publication& publication, const StoredHead& head) {
  change_state([&](SessionState& next) {
    next.base = head.head.n;
    next.base_hash = head.hash;
    next.content = next.base;
    next.base_version = publication.version;
    set_bases(publication, next);
    next.pending.clear();
    next.upload_begun = false;
  });
  drop_published(publication);
}

/// Nothing differed from the base, which holds all that was frozen, then. An earlier publish that
/// may yet turn out to have happened would put something else there.
void Session::adopt_unchanged(const Publication& publication) {
  if (!state_.pending.empty()) return;
  change_state([&](SessionState& next) { set_bases(publication, next); });
  drop_published(publication);
}

void Session::set_bases(const Publication& publication, SessionState& state) {
  for (const Part* part : publication.parts) {
    SessionImage& image = *state.find(part->name);
    image.image.tree = publication.version.find(part->name)->tree;
    image.void_below = publication.void_below.at(part->number);
  }
}

void Session::drop_published(const Publication& publication) {
  for (Part* part : publication.parts) {
    const TreeRoot& tree = publication.version.find(part->name)->tree;
    const auto forget = [&] { part->overlay->forget_below(publication.void_below.at(part->number)); };
    const auto adopt_part = [&] { part->image->adopt(tree, forget); };
    if (part->name == "memory" && memory_image_) {
      memory_image_->adopt(tree, adopt_part);
    } else {
      adopt_part();
    }
  }
  journal_->collect();
  empty_settled(publication.objects);
}

/// Published data is clean: it goes to the cache, and nothing else keeps it here.
void Session::empty_settled(const std::map<Cid, std::uint32_t>& published) {
  for (const auto& [cid, length] : published) {
    if (const auto object = settled_->fetch(cid, Priority::kUpload, {})) {
      cache_->put(cid, *object);  // a full cache leaves it out, which costs a fetch later
    }
  }
  std::set<Cid> needed;
  for (const auto& part : parts_) part->overlay->add_objects(needed);
  std::vector<Cid> sent;
  for (const auto& [cid, length] : published) {
    if (!needed.contains(cid)) sent.push_back(cid);
  }
  settled_->remove(sent);
  settled_->sync();
  sweep_.sweep(*settled_, needed);
}

/// Keeps a head that lost the race, and opens what was kept: it is all that is left once the session ends.
std::string Session::keep_fork(std::uint64_t n, ByteView blob, const std::stop_token& stop) {
  const std::string fork = account_.chain(parcel_.chain(), stop).keep_fork(n, blob);
  SourceStats stats;
  ChunkReader repository(open_stack({repository_tier(make_stoppable(account_.store, stop), stats.link)}, stats),
                         ReaderOptions{0, 16, 1});
  for (const VersionImage& image : load_version(account_, parcel_, {{}, fork}, stop).version.images) {
    if (!image.tree.root.is_zero()) repository.read_page(image.tree.root, Priority::kUpload);
  }
  return fork;
}

/// Error{kHistory} unless the session's base version is in the history. A fork of any other version cannot be opened.
void Session::require_base(const StoredHead& newest, const std::stop_token& stop) {
  try {
    account_.chain(parcel_.chain(), stop).verify_base(newest, state_.base, state_.base_hash);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kHistory) throw;
    throw with_ways_out(error, parcel_.name);
  }
}

/// nullopt: another host was first.
std::optional<StoredHead> Session::commit(const Publication& publication, const std::stop_token& stop,
                                          PublishResult& result) {
  Chain chain = account_.chain(parcel_.chain(), stop);
  for (int round = 0; round < kLateAnswers; ++round) {
    const auto newest = chain.newest();
    resolve_pending(chain, newest);
    bool fork = newest && newest->hash != state_.base_hash;
    // A lock that is free is taken again: the number is what keeps others out.
    if (!fork) fork = result.is_lock_lost = !keep_lock(stop);
    HeadPlace place{state_.base + 1, state_.base_hash};
    if (!fork && newest) place = chain.next(newest);
    const Bytes blob = make_head(account_, parcel_, place, publication.version);
    if (!fork) {
      change_state([&](SessionState& next) {
        if (next.pending.size() == kMaxPending) next.pending.erase(next.pending.begin());
        next.pending.push_back({place.n, head_hash(blob), publication.void_below});
      });
      if (auto head = chain.publish(place.n, blob)) {
        result.version = place.n;
        return head;
      }
      const auto there = chain.read(place.n);
      if (there && find_pending(*there) != nullptr) continue;  // ours was late, behind newest()
    }
    if (newest) require_base(*newest, stop);
    result.fork = keep_fork(place.n, blob, stop);
    result.version = state_.base;
    return std::nullopt;
  }
  throw Error(ErrorKind::kCorrupt,
              fmt::format("{}: the repository gives each time another head of ours", parcel_.name));
}

/// Returns the refusal when the history does not tell whether a publish happened: work that was discarded since can be
/// given up nonetheless.
std::optional<Error> Session::try_to_resolve_pending(const std::stop_token& stop) {
  if (state_.pending.empty()) return std::nullopt;
  Chain chain = account_.chain(parcel_.chain(), stop);
  const auto newest = chain.newest();
  try {
    resolve_pending(chain, newest);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kHistory) throw;
    return error;
  }
  return std::nullopt;
}

PublishResult Session::publish(const PublishOptions& options, const ProgressFn& progress) {
  require_transition(state_.phase, options.checkpoint ? SessionEvent::kCheckpoint : SessionEvent::kPublish,
                     parcel_.name);
  go_online(options.stop);
  account_.online("publishing " + parcel_.name);
  if (!account_.store->writable()) {
    throw Error(ErrorKind::kUnsupported, fmt::format("{} is read-only", account_.store->describe()));
  }
  const std::optional<Error> unresolved = try_to_resolve_pending(options.stop);
  PublishResult result;
  const std::uint64_t bytes_before = upload_counters_.bytes;
  const std::uint64_t objects_before = upload_counters_.objects;
  Publication publication;
  const struct Kept {
    SettledSweep& objects;
    ~Kept() { objects.release(); }
  } kept{sweep_};
  try {
    if (progress) progress("seal", 0, 0);
    freeze(options, publication);
    Settling settling(*this);
    seal(publication);
    if (options.copy_of.empty() && same_content(publication.version, state_.base_version)) {
      result.unchanged = true;
      result.version = state_.base;
      settling.end();
      adopt_unchanged(publication);
    } else {
      if (unresolved) throw Error(*unresolved);
      const auto began = std::chrono::steady_clock::now();
      upload(publication.objects, begin_upload(), "upload", progress, options.stop);
      publication.upload_time = std::chrono::steady_clock::now() - began;
      publication.upload_bytes = upload_counters_.bytes - bytes_before;
      add_boot_pack(options, publication, progress);
      publication.version.added_bytes = upload_counters_.bytes - bytes_before;
      const auto head = commit(publication, options.stop, result);
      settling.end();
      if (head) adopt(publication, *head);
    }
  } catch (...) {
    thaw(publication);
    throw;
  }
  published_ =
      Published{options.memory ? SessionPhase::kSuspended : SessionPhase::kCheckedOut, publication.disk_writes};
  result.uploaded_bytes = upload_counters_.bytes - bytes_before;
  result.uploaded_objects = upload_counters_.objects - objects_before;
  return result;
}

}  // namespace isr
