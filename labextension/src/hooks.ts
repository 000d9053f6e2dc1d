/** What components need of React and of signals. */

import type { ISignal } from '@lumino/signaling';
import { useEffect, useRef, useState, useSyncExternalStore } from 'react';

import type { Known, Live } from './live';

/** The value that `read` gives, drawn anew whenever the signal is emitted. */
export function useSignal<S, T>(signal: ISignal<S, unknown>, read: () => T): T {
  return useSyncExternalStore(changed => {
    signal.connect(changed);
    return () => {
      signal.disconnect(changed);
    };
  }, read);
}

export function useLive<T>(live: Live<T>): Known<T> {
  return useSignal(live.changed, () => live.known);
}

/** The width of an element in pixels, kept as it changes; 0 before it is drawn. */
export function useWidth<E extends HTMLElement>(): [React.RefObject<E>, number] {
  const element = useRef<E>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    if (!element.current) {
      return;
    }
    const observer = new ResizeObserver(entries => {
      for (const entry of entries) {
        setWidth(Math.floor(entry.contentRect.width));
      }
    });
    observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  return [element, width];
}

/** A value once it has not changed for a while. */
export function useSettled<T>(value: T, milliseconds: number): T {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), milliseconds);
    return () => clearTimeout(timer);
  }, [value, milliseconds]);
  return settled;
}
