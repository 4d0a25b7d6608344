#pragma once

#include "image/first_touches.h"
#include "session/session_images.h"

namespace isr {

/// Images of a suspended session for a VM whose writes are thrown away. A read of data that is not on this host fails
/// with Error{kOffline}. Must not outlive the session.
struct RehearsalImages {
  std::vector<std::shared_ptr<Image>> disks;
  std::shared_ptr<Image> memory;
  std::shared_ptr<FirstTouches> touches;  ///< records the first reads of all images
};
/// Makes the images for a rehearsal of a session that is suspended with unpublished memory; nullopt for any other
/// session, because a rehearsal of published memory has no use.
std::optional<RehearsalImages> rehearsal_images(const StateFile& state, const SessionImages& images,
                                                const SessionObjects& objects);

}  // namespace isr
