// freeze → seal → absorb → upload → check the lock → publish → read back → adopt.
//
// Chunks that were sealed whole are absorbed at once: the upload reads the sealed objects and needs no overlay, so the
// journal can drop these changes however long the upload takes. The bytes that went into a patch stay in the journal.
// Settling goes on meanwhile. Only the last step drops data on this host.
//
// A checkpoint freezes the memory of a running machine in two layers. The scratch layer has the changes of this run;
// the journal overlay below it has the changes from before the run. The scratch layer stays frozen until the publish
// has succeeded, because the overlay absorbs only whole chunks, not the bytes that went into a patch. Both layers drop
// their changes after the new base has them, so that a reader in between never sees old bytes.

#include "session/publisher.h"

#include <fmt/format.h>

#include "base/log.h"

namespace isr {
namespace {

bool same_content(const VersionImage* a, const VersionImage* b) {
  if (!a || !b) return a == b;
  return a->content == b->content;
}

bool is_sealed_by(const PublishOptions& publish, ImageRole role) {
  switch (rules_of(role).sealed_by) {
    case SealedBy::kEveryPublish:
      return true;
    case SealedBy::kPublishOfMemory:
      return publish.memory || publish.checkpoint;
    case SealedBy::kPublishOfSuspend:
      return publish.memory;
    case SealedBy::kNoPublish:
      return false;
  }
  return false;
}

/// True when both versions have the same contents. Boot packs are not compared, because they only make a resume faster.
bool same_content(const ParcelVersion& a, const ParcelVersion& b) {
  const auto is_in = [](const ParcelVersion& in) {
    return [&in](const VersionImage& image) {
      return !rules_of(image.role).is_content || same_content(&image, in.find(image.name));
    };
  };
  return a.vm == b.vm && std::all_of(a.images.begin(), a.images.end(), is_in(b)) &&
         std::all_of(b.images.begin(), b.images.end(), is_in(a));
}

}  // namespace

/// A version that is being published.
struct Publisher::Publication {
  ParcelVersion version;
  std::map<Cid, std::uint32_t> objects;  ///< each with its stored length in bytes
  std::map<std::uint16_t, std::uint64_t> void_below;
  std::vector<SessionPart*> parts;
  std::uint64_t disk_writes = 0;                 ///< SessionImages::disk_writes() just before the freeze
  bool scratch_is_frozen = false;                ///< the frozen changes of memory are in the scratch layer
  MemoryWitness memory;                          ///< set if scratch_is_frozen
  std::chrono::duration<double> upload_time{0};  ///< of the objects, without a boot pack
  std::uint64_t upload_bytes = 0;                ///< of the same objects
};

Publisher::Publisher(const PublisherParts& parts)
    : account_(parts.account),
      parcel_(parts.parcel),
      state_(parts.state),
      objects_(parts.objects),
      images_(parts.images),
      settler_(parts.settler),
      prefetch_(parts.prefetch),
      memory_(parts.memory),
      heads_(parts.heads),
      pack_maker_(account_.identity, objects_) {}

void Publisher::freeze(const PublishOptions& options, Publication& publication) {
  for (const SessionImage& image : state_.now().images) {
    if (is_sealed_by(options, image.image.role)) publication.parts.push_back(&images_.part(image.image.name));
  }
  const auto freeze_part = [&](SessionPart* part) { publication.void_below[part->number] = part->overlay->freeze(); };
  const auto freeze = [&] {
    // Read first, so that a write during the freeze counts as not covered.
    publication.disk_writes = images_.disk_writes();
    for (SessionPart* part : publication.parts) freeze_part(part);
    if (!options.checkpoint) return;
    memory_.freeze();
    publication.scratch_is_frozen = true;
  };
  if (options.checkpoint) {
    MachineMoment moment = options.checkpoint(freeze);
    publication.memory = std::move(moment.memory);
    publication.version.stamp = moment.stamp;
    memory_.write_device_state(moment.device_state);
    publication.parts.push_back(&images_.part(ImageRole::kDevice));
    freeze_part(publication.parts.back());
  } else {
    freeze();
    if (options.memory) publication.version.stamp = state_.now().stamp;
  }
  images_.journal().sync();
  publication.version.vm = state_.now().vm;
  publication.version.message = options.message;
  publication.version.copy_of = options.copy_of;
}

void Publisher::seal(const PublishOptions& options, Publication& publication) {
  for (SessionPart* part : publication.parts) {
    VersionImage image = state_.now().find(part->name)->image;
    const bool in_scratch = image.role == ImageRole::kMemory && publication.scratch_is_frozen;
    FrozenChanges& frozen = in_scratch ? memory_.frozen() : static_cast<FrozenChanges&>(*part->overlay);
    SealContext context = objects_.seal_context();
    context.sweep = &objects_.sweep();
    context.fetching = objects_.shared_reader();
    context.stop = options.stop;
    context.may_patch = rules_of(image.role).may_have_patches;
    const auto base = in_scratch ? memory_.image()->base_content() : part->image->base_content();
    // They differ when an earlier publish turned out to have happened. Sharing saves reading the tables of patches.
    const SealedImage sealed = base->tree() == image.content ? seal_frozen(context, frozen, *base)
                                                             : seal_frozen(context, frozen, {image.content, *base});
    if (in_scratch) memory_.check_frozen(publication.memory, image.content, sealed);
    // The memory of a checkpoint stays frozen in both layers. Settling must not seal a chunk of the lower one, because
    // the scratch layer has newer bytes of it.
    if (!in_scratch) part->overlay->absorb_frozen(sealed.chunks, publication.void_below.at(part->number));
    image.content = sealed.content;
    publication.version.images.push_back(std::move(image));
    for (const ClearRef& object : sealed.new_objects) publication.objects.emplace(object.cid, object.length);
  }
}

/// Undoes the freeze after a failure. Changes that were absorbed stay absorbed.
void Publisher::thaw(const Publication& publication, bool with_memory) {
  for (SessionPart* part : publication.parts) part->overlay->thaw();
  if (with_memory) memory_.thaw();
}

/// Returns whether the repository is likely to have the objects: after an interrupted publish most of them were sent.
Presence Publisher::begin_upload() {
  if (state_.now().upload_begun) return Presence::kLikely;
  state_.change([](SessionState& next) { next.upload_begun = true; });
  return Presence::kUnknown;
}

void Publisher::upload(const std::map<Cid, std::uint32_t>& objects, Presence presence, std::string_view step,
                       const ProgressFn& progress, const std::stop_token& stop) {
  Uploader uploader(account_.remote.store, {.bytes_per_second = account_.host.upload_limit(), .stop = stop}, counters_);
  std::uint64_t total = 0;
  for (const auto& [cid, length] : objects) total += length;
  std::uint64_t done = 0;
  for (const auto& [object_cid, length] : objects) {
    if (progress) progress(step, done, total);
    done += length;
    const Cid cid = object_cid;
    const auto load = [this, cid] { return objects_.load(cid); };
    uploader.put_later(cid, length, load, presence);
  }
  uploader.finish();  // returns once each put was answered "created" or "exists", so all objects are there
  if (progress) progress(step, total, total);
}

void Publisher::add_boot_pack(const PublishOptions& options, Publication& publication, const ProgressFn& progress) {
  if (!options.memory || !options.boot_order) return;
  try {
    BootOrder order = options.boot_order();
    const std::size_t most = affordable_boot_pages(publication.upload_bytes, publication.upload_time);
    const VersionImage* last = state_.now().base_version.find(ImageRole::kBootPack);
    const auto pack = pack_maker_.make(std::move(order), prefetch_.own_order(), most, publication.version,
                                       last != nullptr ? &last->content.tree : nullptr);
    if (!pack) return;
    upload(pack->objects, Presence::kUnknown, to_name(ImageRole::kBootPack), progress, options.stop);
    publication.objects.insert(pack->objects.begin(), pack->objects.end());
    publication.version.images.push_back(
        {std::string(to_name(ImageRole::kBootPack)), ImageRole::kBootPack, pack->root});
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kCancelled) throw;
    log::warn("the version is published without a boot pack: {}", error.what());
  }
}

void Publisher::adopt(const Publication& publication, const StoredHead& head) {
  state_.change([&](SessionState& next) {
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

/// Drops the frozen changes, because the base has the same contents. Keeps them while an earlier publish has no answer:
/// if that publish did happen, its version becomes the base, and its contents may differ.
void Publisher::adopt_unchanged(const Publication& publication) {
  if (!state_.now().pending.empty()) return;
  state_.change([&](SessionState& next) { set_bases(publication, next); });
  drop_published(publication);
}

void Publisher::set_bases(const Publication& publication, SessionState& state) {
  for (const SessionPart* part : publication.parts) {
    SessionImage& image = *state.find(part->name);
    image.image.content = publication.version.find(part->name)->content;
    image.void_below = publication.void_below.at(part->number);
  }
}

void Publisher::drop_published(const Publication& publication) {
  for (SessionPart* part : publication.parts) {
    const PatchedTree& content = publication.version.find(part->name)->content;
    const auto forget = [&] { part->overlay->forget_below(publication.void_below.at(part->number)); };
    const auto adopt_part = [&] { part->image->adopt(content, forget); };
    if (part->role == ImageRole::kMemory) {
      memory_.adopt(content, adopt_part);
    } else {
      adopt_part();
    }
  }
  images_.journal().collect();
  empty_settled(publication.objects);
}

/// Moves the published objects from the settled store to the cache, because they can be fetched again from now on.
void Publisher::empty_settled(const std::map<Cid, std::uint32_t>& published) {
  for (const auto& [cid, length] : published) {
    if (const auto object = objects_.settled().fetch(cid, Priority::kUpload, {})) {
      objects_.cache().put(cid, *object);  // a full cache refuses it, and a later read fetches it
    }
  }
  const std::set<Cid> needed = images_.needed_objects();
  std::vector<Cid> sent;
  for (const auto& [cid, length] : published) {
    if (!needed.contains(cid)) sent.push_back(cid);
  }
  objects_.settled().remove(sent);
  objects_.settled().sync();
  objects_.sweep().sweep(objects_.settled(), needed);
}

PublishResult Publisher::publish(const PublishOptions& options, const ProgressFn& progress) {
  require_transition(state_.now().phase, options.checkpoint ? SessionEvent::kCheckpoint : SessionEvent::kPublish,
                     parcel_.name);
  account_.remote.go_online(options.stop);
  account_.remote.online("publishing " + parcel_.name);
  if (!account_.remote.store->writable()) {
    throw Error(ErrorKind::kUnsupported, fmt::format("{} is read-only", account_.remote.store->describe()));
  }
  const std::optional<Error> unresolved = heads_.resolve(options.stop);
  PublishResult result;
  const std::uint64_t bytes_before = counters_.bytes;
  const std::uint64_t objects_before = counters_.objects;
  Publication publication;
  const struct Kept {
    SettledSweep& objects;
    const StateFile& state;
    // While an earlier publish has no answer, its version may become the base, which needs its objects.
    ~Kept() {
      if (state.now().pending.empty()) objects.release();
    }
  } kept{objects_.sweep(), state_};
  try {
    if (progress) progress("seal", 0, 0);
    freeze(options, publication);
    SettlingThread settling(settler_);
    settling.start();
    seal(options, publication);
    if (options.copy_of.empty() && same_content(publication.version, state_.now().base_version)) {
      result.unchanged = true;
      result.version = state_.now().base;
      settling.end();
      adopt_unchanged(publication);
    } else {
      if (unresolved) throw Error(*unresolved);
      const auto began = std::chrono::steady_clock::now();
      upload(publication.objects, begin_upload(), "upload", progress, options.stop);
      publication.upload_time = std::chrono::steady_clock::now() - began;
      publication.upload_bytes = counters_.bytes - bytes_before;
      add_boot_pack(options, publication, progress);
      publication.version.added_bytes = counters_.bytes - bytes_before;
      PutHead put = heads_.put(publication.version, publication.void_below, options.stop);
      result.version = put.version;
      result.fork = std::move(put.fork);
      result.is_lock_lost = put.is_lock_lost;
      settling.end();
      if (put.head) adopt(publication, *put.head);
    }
    thaw(publication, /*with_memory=*/true);  // of a checkpoint, unless it was adopted
  } catch (...) {
    // Not when the session is about to end: merging the two layers of memory takes long, and suspending does not need
    // it.
    thaw(publication, /*with_memory=*/!options.stop.stop_requested());
    throw;
  }
  published_ =
      Published{options.memory ? SessionPhase::kSuspended : SessionPhase::kCheckedOut, publication.disk_writes};
  result.uploaded_bytes = counters_.bytes - bytes_before;
  result.uploaded_objects = counters_.objects - objects_before;
  return result;
}

void Publisher::require_published() const {
  const bool is_published =
      published_ && published_->phase == state_.now().phase && published_->disk_writes == images_.disk_writes();
  if (is_published) return;
  throw Error(ErrorKind::kVm, fmt::format("{} has changes that are not published", parcel_.name),
              {"run the same command again to publish them; nothing is lost"});
}

}  // namespace isr
