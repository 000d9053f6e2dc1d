import type { JSX } from 'react';

import type { Notice } from '../types';

/** Sentences above a study; a screen reader says the new ones. */
export function Notices({ notices }: { notices: readonly Notice[] }): JSX.Element {
  return (
    <div role="status">
      {notices.map(notice => (
        <p key={notice.text} className={`qt-notice qt-${notice.kind}`}>
          {notice.text}
        </p>
      ))}
    </div>
  );
}
