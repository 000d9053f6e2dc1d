import { cleanup } from '@testing-library/react';
import { afterEach } from 'vitest';

// jsdom lays nothing out: everything is 600 pixels wide here.
class Observer implements ResizeObserver {
  constructor(private readonly callback: ResizeObserverCallback) {}

  observe(): void {
    this.callback([{ contentRect: { width: 600 } } as ResizeObserverEntry], this);
  }

  unobserve(): void {
    // Nothing is kept.
  }

  disconnect(): void {
    // Nothing is kept.
  }
}

globalThis.ResizeObserver = Observer;
// Neither does it escape names for selectors.
Object.assign(globalThis, { CSS: { escape: (text: string) => text.replace(/[^\w-]/g, '\\$&') } });

afterEach(cleanup);
