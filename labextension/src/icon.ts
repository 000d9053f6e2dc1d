import { LabIcon } from '@jupyterlab/ui-components';

/** A frontier with three trials on it. */
export const icon = new LabIcon({
  name: 'quanttaas:frontier',
  svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" height="16" viewBox="0 0 16 16">
  <g class="jp-icon3" fill="none" stroke="#616161" stroke-width="1.3">
    <path d="M2 1.5V14h12.5"/><path d="M4.5 11.5V8.5H8V5h4.5"/>
  </g>
  <g class="jp-icon3" fill="#616161">
    <circle cx="4.5" cy="8.5" r="1.7"/><circle cx="8" cy="5" r="1.7"/><circle cx="12.5" cy="5" r="1.7"/>
  </g></svg>`
});
